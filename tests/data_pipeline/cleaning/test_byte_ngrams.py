"""Many texts at a time get the probabilities that py3langid gives to each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from data_pipeline.cleaning.byte_ngrams import LONGEST_NGRAM, PIECE_BYTES, byte_ngrams

ENGLISH = "The bridge was opened again on Monday, nine months after a barge had damaged two of its girders. "
CHINESE = "货船撞弯大桥两根主梁九个月之后，大桥于星期一恢复通车，首日车流平稳，没有发生拥堵。"
TEXTS = ["", "a", "12 34", "SHOUTED LOUDLY", "Ä" * 300, ENGLISH, ENGLISH * 20, CHINESE, CHINESE * 30]
TEXTS += [(ENGLISH + CHINESE * 4)[:length] for length in range(PIECE_BYTES - 8, PIECE_BYTES + 8)]


@pytest.fixture(scope="module")
def reference() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def assert_equal(reference: LanguageIdentifier, texts: list[str]) -> None:
    model = byte_ngrams()
    for text, probabilities in zip(texts, model.probabilities(texts), strict=True):
        expected = dict(reference.rank(text))
        assert list(probabilities) == pytest.approx([expected[name] for name in model.languages], abs=1e-3)


def test_texts_of_all_lengths_are_judged_as_by_the_reference(reference):
    assert_equal(reference, TEXTS)


@given(strategies.lists(strategies.text(max_size=700), max_size=5))
def test_any_texts_are_judged_as_by_the_reference(reference, texts):
    assert_equal(reference, texts)


def test_a_text_is_judged_alike_in_any_company():
    model = byte_ngrams()
    alone = [model.probabilities([text])[0] for text in TEXTS]
    assert all(np.array_equal(one, other) for one, other in zip(alone, model.probabilities(TEXTS)))


def test_no_ngram_of_the_model_is_longer_than_the_bytes_that_a_piece_is_entered_early_by(reference):
    moves, rows = np.array(reference.tk_nextmove).reshape(-1, 256), np.array(reference.tk_row)
    seen = np.zeros(len(rows), bool)
    reached, depth = np.array([0]), -1
    while len(reached):
        seen[reached] = True
        depth += 1
        following = np.zeros(len(rows), bool)
        following[moves[rows[reached]]] = True
        reached = np.flatnonzero(following & ~seen)
    assert depth == LONGEST_NGRAM
