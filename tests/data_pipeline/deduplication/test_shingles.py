import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plain_shingles import kind_of, plain_shingles, plain_tokens
from data_pipeline.deduplication import shingles
from data_pipeline.deduplication.shingles import shingle

TEXTS = [
    "The quick brown fox, it's said, jumps over 2 lazy dogs; the quick brown fox!",
    "水车は水の力で回る。ラーメンを食べる。",
    "GIMP 是一个图像处理程序,version 2.10 支持 PNG。",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "हिन्दी में शब्दों के बीच में खाली जगह होती है।",
    "한국어는 띄어쓰기를 한다.",
    "Größe und STRASSE, straße, ΣΊΣΥΦΟΣ σίσυφος",
    "two words",
    "…—🚣 !?",
    "",
    "under_score x",
]


def hashes(text: str, length: int = 5) -> list[int]:
    return shingle([text], length).hashes.tolist()


@given(st.lists(st.sampled_from(TEXTS) | st.text(), max_size=6), st.integers(1, 6))
def test_shingles_are_those_of_plain_python(texts, length):
    found = shingle(texts, length)
    expected = [plain_shingles(text, length) for text in texts]
    assert np.diff(found.offsets).tolist() == [len(each) for each in expected]
    pairs = set(zip((one for each in expected for one in each), found.hashes.tolist(), strict=True))
    assert len(pairs) == len({plain for plain, _ in pairs}) == len({number for _, number in pairs})


def test_every_character_is_what_its_name_says():
    kinds, _ = shingles._characters()
    names = {shingles.SEPARATOR: "separator", shingles.IN_WORD: "word", shingles.ALONE: "token"}
    assert [names[kind] for kind in kinds.tolist()] == [kind_of(chr(point)) for point in range(sys.maxunicode + 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße, Größe", "STRASSE  GRÖSSE"),
        ("cafe\u0301 au lait", "café au lait!"),
        ("one two", "two one"),
        ("水车", "水車"),
        ("ab c", "a bc"),
    ],
)
def test_case_punctuation_and_spelling_in_unicode_make_no_difference_but_order_and_words_do(one, other):
    assert (hashes(one) == hashes(other)) == (plain_tokens(one) == plain_tokens(other))


def test_a_short_text_has_one_shingle_of_all_its_tokens_and_one_without_words_has_none():
    found = shingle(["one two three", "?!", "one two", "one two three four five"], 5)
    assert np.diff(found.offsets).tolist() == [1, 0, 1, 1]
    assert len(set(found.hashes.tolist())) == 3


def test_a_text_longer_than_a_window_loses_only_the_words_at_the_cuts(monkeypatch):
    chance = random.Random(0)
    text = " ".join(f"word{chance.randrange(10**6)}" for _ in range(2000))
    whole = set(hashes(text))
    monkeypatch.setattr(shingles, "WINDOW_CHARACTERS", 5000)
    cuts = len(text) // 5000
    assert len(whole ^ set(hashes(text))) <= cuts * 11
    assert hashes("text behind it") == shingle([text, "text behind it"], 5).hashes.tolist()[-1:]
