import os
import random
import re
import unicodedata
from itertools import combinations

import networkx
import numpy as np
import pytest
from duplicate_runs import InWorkers, Shuffled, duplicates_of, one_by_one, write_parts
from edited_texts import CHINESE, ENGLISH, same_to_a_reader, texts_with_edited_copies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.duplicates import evaluate
from data_pipeline.deduplication import search
from data_pipeline.deduplication.duplicates import Duplicates, find_duplicates, read_duplicates
from data_pipeline.deduplication.exact import ExactDuplicatesConfig
from data_pipeline.deduplication.minhash import NearDuplicatesConfig, sign
from data_pipeline.deduplication.search import Search, SortGroup, find_matches
from data_pipeline.deduplication.signatures import DuplicatesConfig, count_documents
from data_pipeline.deduplication.signed_parts import Corpus
from data_pipeline.parallel import Workers

CONFIG = DuplicatesConfig(memory_mb=16)
EXACT_ONLY = DuplicatesConfig(near=NearDuplicatesConfig(enabled=False))
NEAR_ONLY = DuplicatesConfig(exact=ExactDuplicatesConfig(enabled=False))

SHORT = st.lists(st.sampled_from(["a", "b", "B", "é", "e\u0301", " ", "\n", "\r\n", "\t", "。"]), max_size=5).map(
    "".join
)
WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=14).map(" ".join)
ALIKE = st.builds(lambda text, tail: f"{text * 4} {tail}", WORDS, st.sampled_from(["", "x", "x y", "!", "y"]))
MIXED = st.lists(st.one_of(SHORT, ALIKE, ALIKE), max_size=24)


def as_lists(found: Duplicates) -> tuple[list[int], list[bool]]:
    return found.originals.tolist(), found.exact.tolist()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Texts with edited and exact copies in two languages, mixed, and some without a word."""
    texts = texts_with_edited_copies(ENGLISH, 12, seed=3) + texts_with_edited_copies(CHINESE, 8, seed=4)
    texts += [same_to_a_reader(text) for text in texts[::9]] + ["?!", "", "…", "?!"]
    random.Random(0).shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def expected(corpus, tmp_path_factory) -> tuple[list[int], list[bool]]:
    """Their duplicates, found in one part."""
    found = duplicates_of(write_parts(tmp_path_factory.mktemp("expected"), corpus, CONFIG), CONFIG)
    assert 20 < (~found.stays).sum() < len(corpus) / 2
    return as_lists(found)


@given(st.lists(SHORT, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_exact_duplicates_are_those_of_comparing_all_texts(tmp_path_factory, texts, cuts):
    cuts = [min(cut, len(texts)) for cut in cuts]
    found = duplicates_of(write_parts(tmp_path_factory.mktemp("exact"), texts, EXACT_ONLY, cuts), EXACT_ONLY)
    seen = [re.sub(r"\s*\n", "\n", unicodedata.normalize("NFC", text) + "\n").strip("\n") for text in texts]
    firsts = [seen.index(text) for text in seen]
    assert found.originals.tolist() == [-1 if first == number else first for number, first in enumerate(firsts)]
    assert np.array_equal(found.exact, ~found.stays)


@settings(max_examples=60)
@given(MIXED, st.sampled_from([CONFIG, NEAR_ONLY, DuplicatesConfig(near=NearDuplicatesConfig(threshold=0.4, ngram=3))]))
def test_near_duplicates_are_the_components_of_all_candidates_that_verify(tmp_path_factory, texts, config):
    found = duplicates_of(write_parts(tmp_path_factory.mktemp("near"), texts, config), config)
    matching, (signatures, counts) = config.near.matching(), sign(texts, config.near)
    rows = [signature.tobytes() for signature in signatures]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        bands = range(0, matching.bands * matching.rows, matching.rows)
        together = any(rows[one][b : b + matching.rows] == rows[other][b : b + matching.rows] for b in bands)
        agreeing = sum(a == b for a, b in zip(rows[one], rows[other]))
        similarity = (agreeing / config.near.permutations - 1 / 256) / (1 - 1 / 256)
        if counts[one] and counts[other] and together and similarity >= config.near.threshold - 1e-9:
            graph.add_edge(one, other)
        if found.exact[other] and texts[one] == texts[other]:
            graph.add_edge(one, other)
    exact = duplicates_of(write_parts(tmp_path_factory.mktemp("exact"), texts, EXACT_ONLY), EXACT_ONLY)
    if config.exact.enabled:
        graph.add_edges_from((number, first) for number, first in enumerate(exact.originals.tolist()) if first >= 0)
        assert np.array_equal(found.exact, exact.exact)
    else:
        assert not found.exact.any()
    firsts = {number: min(cluster) for cluster in networkx.connected_components(graph) for number in cluster}
    assert [n if o < 0 else o for n, o in enumerate(found.originals.tolist())] == [firsts[n] for n in range(len(texts))]


@pytest.fixture
def many_tasks(monkeypatch) -> None:
    """Make groups of some fifteen documents, and a range of keys for each dozen."""
    monkeypatch.setattr(search, "SORTING_BYTES", 1 << 16)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 124), max_size=8), st.randoms(use_true_random=False))
def test_parts_and_the_order_of_tasks_make_no_difference(corpus, expected, many_tasks, tmp_path_factory, cuts, chance):
    parts = write_parts(tmp_path_factory.mktemp("parts"), corpus, CONFIG, cuts)
    assert as_lists(duplicates_of(parts, CONFIG, Shuffled(chance))) == expected


@pytest.mark.parametrize("memory", [64 * 100, 1 << 18, 1 << 26])
def test_memory_makes_no_difference_though_ranges_are_divided_and_common_keys_streamed(tmp_path, memory):
    chance = random.Random(5)
    texts = texts_with_edited_copies(ENGLISH, 20, seed=6)
    boilerplate = " ".join(ENGLISH.draw(chance, 300))
    texts += [f"{boilerplate} {number}" for number in range(150)] + ["the same for all of them"] * 150
    chance.shuffle(texts)
    parts = write_parts(tmp_path, texts, CONFIG, range(0, len(texts), 37))
    corpus = Corpus(parts, [count_documents(part.signatures, CONFIG) for part in parts])
    roots = []
    for name, budget in (("this", memory), ("plenty", 1 << 28)):
        exact = Search(name, tmp_path / name / "exact", CONFIG.exact.matching(), None, budget)
        near = Search(name, tmp_path / name / "near", CONFIG.near.matching(), exact.roots, budget)
        roots += [np.load(find_matches(each, corpus, one_by_one)).tolist() for each in (exact, near)]
    assert roots[:2] == roots[2:]
    assert roots[0].count(texts.index("the same for all of them")) == 150
    assert max(map(roots[1].count, roots[1])) == 150


def test_two_workers_find_what_one_finds(corpus, expected, many_tasks, tmp_path):
    parts = write_parts(tmp_path, corpus, CONFIG, range(0, len(corpus), 20))
    with Workers(2) as workers:
        assert as_lists(duplicates_of(parts, CONFIG, InWorkers(workers))) == expected


def test_a_task_whose_result_is_there_does_nothing(corpus, expected, many_tasks, tmp_path):
    parts = write_parts(tmp_path, corpus, CONFIG, range(0, len(corpus), 30))

    def files() -> dict[str, int]:
        return {str(path): path.stat().st_ino for path in tmp_path.rglob("*")}

    def twice(name, task, items):
        for item in items:
            task(item)
            after_once = files()
            task(item)
            assert files() == after_once

    assert as_lists(duplicates_of(parts, CONFIG, twice)) == expected


def test_only_the_first_of_exact_duplicates_is_compared_with_others(tmp_path):
    texts = texts_with_edited_copies(ENGLISH, 2, seed=7)
    parts = write_parts(tmp_path, texts * 5, CONFIG)
    corpus = Corpus(parts, [len(texts) * 5])
    exact = Search("exact", tmp_path / "exact", CONFIG.exact.matching(), None, 1 << 20)
    near = Search("near", tmp_path / "near", CONFIG.near.matching(), exact.roots, 1 << 20)
    records = []

    def counting(name, task, items):
        one_by_one(name, task, items)
        if isinstance(task, SortGroup):
            records.append(np.load(task.search.file("records", 0)).shape[1])

    for each in (exact, near):
        find_matches(each, corpus, counting)
    assert records == [len(texts) * 5, len(set(texts)) * near.matching.bands]


class Stopped(Exception):
    pass


def test_an_error_within_any_task_loses_nothing(corpus, expected, many_tasks, tmp_path, monkeypatch):
    parts = write_parts(tmp_path, corpus, CONFIG, range(0, len(corpus), 30))
    rename, errors, left = os.replace, 0, 0

    def failing(*paths):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        rename(*paths)

    monkeypatch.setattr(os, "replace", failing)
    while True:
        left = 1 + errors % 3  # so that also a task that writes two files is done some time
        try:
            found = duplicates_of(parts, CONFIG)
            break
        except Stopped:
            errors += 1
    assert as_lists(found) == expected
    assert errors > 15


def test_a_kill_within_any_task_loses_nothing(corpus, expected, many_tasks, tmp_path):
    parts = write_parts(tmp_path, corpus, CONFIG, range(0, len(corpus), 30))
    kills = 0
    while _killed(parts, tmp_path / "work", renames=1 + kills % 3):
        kills += 1
    assert kills > 15
    assert as_lists(duplicates_of(parts, CONFIG)) == expected
    assert not (tmp_path / "work").exists()


def _killed(parts, work, renames: int) -> bool:
    """Find duplicates in a process that dies after it put so many files into place; return whether it did."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    rename, renamed = os.replace, []

    def deadly(*paths):
        if len(renamed) == renames:
            os._exit(9)
        renamed.append(paths)
        rename(*paths)

    try:
        os.replace = deadly
        find_duplicates(parts, work, CONFIG, one_by_one)
    finally:
        os._exit(0)


def test_numbers_are_the_flows_with_its_gaps(corpus, expected, tmp_path):
    cuts = range(20, len(corpus), 20)
    found = duplicates_of(write_parts(tmp_path, corpus, CONFIG, cuts, gap=1000), CONFIG)
    assert found.originals.tolist() == [
        number if number < 0 else number + number // 20 * 1000 for number in expected[0]
    ]
    overlapping = write_parts(tmp_path / "overlapping", corpus, CONFIG, cuts, gap=-1)
    with pytest.raises(ValueError, match=r"000\.signatures and .*001\.signatures have documents of the same numbers"):
        duplicates_of(overlapping, CONFIG)


def test_empty_parts_and_an_empty_corpus_have_no_duplicates(tmp_path):
    parts = write_parts(tmp_path / "some", ["a", "a"], CONFIG, [0, 0, 1, 1, 2])
    assert as_lists(duplicates_of(parts, CONFIG)) == ([-1, 0], [False, True])
    parts = write_parts(tmp_path / "none", [], CONFIG, [0])
    assert as_lists(duplicates_of(parts, CONFIG)) == ([], [])
    neither = DuplicatesConfig(ExactDuplicatesConfig(enabled=False), NearDuplicatesConfig(enabled=False))
    parts = write_parts(tmp_path / "neither", ["a", "a"], neither)
    assert as_lists(duplicates_of(parts, neither)) == ([-1, -1], [False, False])


def test_an_exact_copy_of_a_near_duplicate_is_exact_and_names_what_stays(tmp_path):
    text = " ".join(ENGLISH.draw(random.Random(1), 200))
    parts = write_parts(tmp_path, [text, text + " more", "other", text + " more"], CONFIG)
    assert as_lists(duplicates_of(parts, CONFIG)) == ([-1, 0, -1, 0], [False, False, False, True])


def test_what_was_found_is_read_part_by_part_and_not_sought_again(corpus, expected, tmp_path):
    parts = write_parts(tmp_path, corpus, CONFIG, [50])
    duplicates_of(parts, CONFIG)
    assert as_lists(read_duplicates(parts[1].duplicates)) == tuple(each[50:] for each in expected)

    def nothing(name, task, items):
        raise AssertionError(name)

    find_duplicates(parts, tmp_path / "work", CONFIG, nothing)


@pytest.mark.parametrize("script", [ENGLISH, CHINESE])
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_pairs_well_above_the_threshold_are_found_and_none_well_below_is_linked(script, threshold):
    texts = texts_with_edited_copies(script, 80, seed=8)
    copies = [same_to_a_reader(text) for text in texts[::4]]
    result = evaluate([*texts, *copies], DuplicatesConfig(near=NearDuplicatesConfig(threshold=threshold)))
    found = result.found(threshold + 0.1)
    assert len(found) > 100
    assert np.mean(found) >= 0.95
    assert len(result.links) > 50
    assert min(result.links.values()) >= threshold - 0.15
    assert sum(result.similarities.values()) > sum(result.links.values())
    assert result.exact[len(texts) :].all()
