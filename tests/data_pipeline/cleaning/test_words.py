"""Words as arrays, against Python's own splitting and comparing of strings."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cleaning.words import Words, words_of_letters, words_of_text

ASCII = st.text(alphabet="ab,.#- \n\t", max_size=60)
MIXED = st.text(alphabet="ab1,。 \n天地人のไก가é'", max_size=60)


def units(text: str, words: Words) -> list[str]:
    assert len(words.codes) == len(text)
    return [text[start : start + length] for start, length in zip(words.starts, words.lengths)]


@given(ASCII)
def test_with_spaces_a_word_is_what_stands_between_them(text):
    words = words_of_text(text)
    assert units(text, words) == text.split()
    assert words.count == len(text.split())


def test_without_spaces_a_character_is_a_fraction_of_a_word():
    text = "大桥通车了，2024年(abc)真的：Unicode 很好。\u3000“好”……"
    words = words_of_text(text)
    assert units(text, words) == [*"大桥通车了", "2024", *"年", "abc", *"真的", "Unicode", *"很好好"]
    assert words.count == 3 + 11 * 0.6
    assert words_of_text("ภาษาไทย").count == 7 / 4
    assert words_of_text("한국어는 띄어 쓴다").count == 3


@given(MIXED)
def test_equal_words_have_equal_hashes_and_others_others(text):
    words = words_of_text(text)
    found = units(text, words)
    for (one, hash_of_one), (other, hash_of_other) in itertools.combinations(zip(found, words.hashes), 2):
        assert (one == other) == (hash_of_one == hash_of_other)


@given(MIXED, st.integers(1, 4))
def test_equal_runs_have_equal_hashes_and_others_others(text, length):
    words = words_of_text(text)
    starts = np.arange(len(words))
    ends = words.run_ends(length, starts)
    inside = ends <= len(words)
    found = units(text, words)
    runs = [tuple(found[start:end]) for start, end in zip(starts[inside], ends[inside])]
    hashes = words.run_hashes(starts[inside], ends[inside])
    for (one, hash_of_one), (other, hash_of_other) in itertools.combinations(zip(runs, hashes), 2):
        assert (one == other) == (hash_of_one == hash_of_other)


@given(MIXED, st.integers(1, 4))
def test_a_run_is_the_shortest_that_counts_so_many_words(text, length):
    words = words_of_text(text)
    for start, end in enumerate(words.run_ends(length, np.arange(len(words)))):
        if end <= len(words):
            assert words.shares[start : end - 1].sum() < 20 * length <= words.shares[start:end].sum()
        else:
            assert words.shares[start:].sum() < 20 * length


def test_long_texts_are_hashed_like_short_ones():
    short = words_of_text("alpha beta gamma")
    long = words_of_text("x " * 600_000 + "alpha beta gamma")
    assert (long.hashes[-3:] == short.hashes).all()
    ends = np.array([len(long)])
    assert long.run_hashes(ends - 3, ends) == short.run_hashes(np.array([0]), np.array([3]))


def same(one: str, other: str) -> bool:
    hashes = [words_of_letters([text])[0].hashes for text in (one, other)]
    return len(hashes[0]) == len(hashes[1]) and bool((hashes[0] == hashes[1]).all())


def test_letters_alone_are_the_same_in_any_case_and_punctuation():
    assert same("Don’t PANIC: it’s\n(well-known)!", "don't panic its well known")
    assert same("STRASSE 3.14", "straße, 3 14")
    assert same("“大桥”，通车了！", "大桥通车了")
    assert same("हिन्दी में", "हिन्दी, में")
    assert not same("do not panic", "do panic not")
    assert not same("3.14", "314")


def test_texts_taken_together_are_told_apart():
    texts = ["one two", "", "three!", "大桥", "four"]
    words, ends = words_of_letters(texts)
    assert ends.tolist() == [2, 2, 3, 5, 6]
    assert (words.hashes[2:3] == words_of_letters(["Three"])[0].hashes).all()
