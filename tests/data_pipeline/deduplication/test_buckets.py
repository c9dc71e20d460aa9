import networkx
import numpy as np
import pytest

from data_pipeline.deduplication.buckets import LEADERS, Linker, SketchFiles
from data_pipeline.deduplication.matching import Matching

MATCHING = Matching("sketches", slots=64, bands=4, rows=8, agreement=50)


class Bucket:
    """Documents whose sketches lie in three files."""

    def __init__(self, folder, sketches: np.ndarray):
        self.sketches = sketches
        firsts = [0, len(sketches) // 3, len(sketches) // 2]
        for number, rows in enumerate(np.split(sketches, firsts[1:])):
            np.save(folder / f"{number}.npy", rows)
        self.files = SketchFiles([folder / f"{number}.npy" for number in range(3)], firsts, 64)
        self.documents = np.arange(len(sketches))

    def link(self, rows: int = 1000) -> set[tuple[int, int]]:
        """Return the links where all have the same key, while so many sketches fit into memory."""
        linker = Linker(self.files, MATCHING, rows)
        found = [*linker.link_buckets(np.zeros(len(self.documents), np.uint64), self.documents)]
        return {(one, other) for links in found for one, other in links.tolist()}

    def stream(self, rows: int, block: int) -> set[tuple[int, int]]:
        blocks = [self.documents[start : start + block] for start in range(0, len(self.documents), block)]
        found = Linker(self.files, MATCHING, rows).link_bucket(blocks)
        return {(one, other) for links in found for one, other in links.tolist()}

    def alike(self, one: int, other: int) -> bool:
        return sum(a == b for a, b in zip(self.sketches[one].tolist(), self.sketches[other].tolist())) >= 50


def families(count: int, size: int, distance: int, seed: int = 0) -> np.ndarray:
    """Return the sketches of `count` families, mixed, each member with some slots unlike its family's."""
    draw = np.random.default_rng(seed)
    sketches = np.repeat(draw.integers(0, 256, (count, 64), np.uint8), size, axis=0)
    for sketch in sketches:
        sketch[draw.choice(64, distance, replace=False)] = draw.integers(0, 256, distance)
    return draw.permutation(sketches)


def components(links: set[tuple[int, int]], documents: int) -> set[frozenset[int]]:
    graph = networkx.Graph([*links])
    graph.add_nodes_from(range(documents))
    return {frozenset(component) for component in networkx.connected_components(graph)}


@pytest.mark.parametrize("distance", [0, 6, 9, 12])
def test_in_a_small_bucket_all_pairs_are_compared(tmp_path, distance):
    bucket = Bucket(tmp_path, families(5, 6, distance))
    pairs = {(a, b) for b in range(30) for a in range(b) if bucket.alike(a, b)}
    assert bucket.link() <= pairs
    assert components(bucket.link(), 30) == components(pairs, 30)


def test_in_a_small_bucket_also_documents_are_linked_that_are_like_each_other_but_not_like_a_leader(tmp_path):
    draw = np.random.default_rng(0)
    chain = [draw.integers(0, 256, 64, np.uint8)]
    for place in range(3):  # each differs from the one before in 14 slots, which is just allowed
        chain.append(chain[-1].copy())
        chain[-1][14 * place : 14 * (place + 1)] += 1
    bucket = Bucket(tmp_path, np.stack([chain[place] for place in (0, 3, 1, 2)]))
    assert bucket.link() == {(0, 2), (2, 3), (1, 3)}


def test_a_stranger_that_comes_first_hides_nobody_in_a_large_bucket(tmp_path):
    sketches = np.concatenate((families(3, 1, 0, seed=5), families(2, 100, 5)))
    bucket = Bucket(tmp_path, sketches)
    assert sorted(map(len, components(bucket.link(), 203))) == [1, 1, 1, 100, 100]


@pytest.mark.parametrize("distance", [5, 8, 20])
def test_a_bucket_gives_the_same_links_in_memory_and_streamed_in_any_blocks(tmp_path, distance):
    bucket = Bucket(tmp_path, families(7, 30, distance))
    found = bucket.link()
    assert bucket.link(rows=LEADERS + 1) == found
    for rows, block in ((LEADERS + 1, 210), (50, 13), (1000, 1)):
        assert bucket.stream(rows, block) >= found
        assert components(bucket.stream(rows, block), 210) == components(found, 210)


def test_the_work_in_a_large_bucket_grows_with_its_size_not_with_its_square(tmp_path, monkeypatch):
    compared = []
    plain = Linker._agree

    def counting(self, one, other):
        result = plain(self, one, other)
        compared.append(result.size)
        return result

    monkeypatch.setattr(Linker, "_agree", counting)
    copies = Bucket(tmp_path, families(1, 50_000, 4))
    assert len(components(copies.link(rows=10_000), 50_000)) == 1
    assert sum(compared) <= 2 * 50_000
    compared.clear()
    strangers = Bucket(tmp_path, families(50_000, 1, 0))
    assert not strangers.link(rows=10_000)
    assert sum(compared) <= (LEADERS + 1) * 50_000
