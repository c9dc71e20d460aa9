"""Shares of repeated n-grams, against a plain count of strings as the definitions read."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cleaning.repetition import Repetition
from data_pipeline.cleaning.words import words_of_text


def grams(words: list[str], n: int) -> list[tuple[int, tuple[str, ...]]]:
    return [(start, tuple(words[start : start + n])) for start in range(len(words) - n + 1)]


def share(words: list[str], covered: set[int]) -> float:
    return sum(len(words[place]) for place in covered) / max(sum(map(len, words)), 1)


def plain_duplicates(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start, gram in grams(words, n):
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return share(words, covered)


def plain_tops(words: list[str], n: int) -> list[float]:
    """All that can be called top: what several n-grams that occur equally often cover."""
    counts = Counter(gram for _, gram in grams(words, n))
    most = max(counts.values(), default=0)
    if most < 2:
        return [0.0]
    tops = [gram for gram, count in counts.items() if count == most]
    longest = max(sum(map(len, gram)) for gram in tops)
    return [
        share(words, {place for start, found in grams(words, n) if found == gram for place in range(start, start + n)})
        for gram in tops
        if sum(map(len, gram)) == longest
    ]


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40)


@given(WORDS, st.integers(2, 10))
def test_duplicates_are_what_has_occurred_before(words, n):
    measured = Repetition(words_of_text(" ".join(words))).duplicates(n)
    assert measured == pytest.approx(plain_duplicates(words, n))


@given(WORDS, st.integers(2, 10))
def test_the_top_is_what_occurs_most_often(words, n):
    measured = Repetition(words_of_text(" ".join(words))).top(n)
    assert any(measured == pytest.approx(top) for top in plain_tops(words, n))


@given(st.text(alphabet="天地人，", max_size=60), st.sampled_from([(2, 4), (3, 5), (5, 9), (10, 17)]))
def test_in_chinese_an_n_gram_is_as_many_characters_as_n_words_have(text, lengths):
    words, characters = lengths
    measured = Repetition(words_of_text(text)).duplicates(words)
    assert measured == pytest.approx(plain_duplicates(list(text.replace("，", "")), characters))


def test_lengths_may_be_asked_for_in_any_order():
    text = "one two three four five six " * 3
    again, forward = Repetition(words_of_text(text)), Repetition(words_of_text(text))
    assert [again.duplicates(n) for n in (10, 5)] == [forward.duplicates(n) for n in (5, 10)][::-1]


def test_a_text_without_words_repeats_nothing():
    for text in ("", "\n", "。", "one"):
        assert Repetition(words_of_text(text)).top(2) == Repetition(words_of_text(text)).duplicates(5) == 0
