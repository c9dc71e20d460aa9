"""Every token is scored once, with the context that was asked for, and the sums are those of plain PyTorch."""

from __future__ import annotations

import gzip
import lzma
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.nn.functional import cross_entropy

from train.evaluate.perplexity import Score, score_tokens, windows
from train.evaluate.text import Text
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig


@given(some.integers(1, 200), some.integers(1, 40), some.data())
def test_windows_score_each_token_but_the_first_once_and_never_without_its_predecessor(tokens, length, draw):
    overlap = draw.draw(some.integers(0, length - 1))
    scored = []
    for start, first, stop in windows(tokens, length, overlap):
        assert 0 <= start < first < stop <= tokens
        assert stop - start <= length + 1
        scored += range(first, stop)
    assert scored == list(range(1, tokens))


def test_later_windows_see_the_overlap_they_were_asked_to_see():
    seen = [first - 1 - start for start, first, _ in windows(100, 10, 4)]
    assert seen[0] == 0
    assert set(seen[1:]) == {4}


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = TransformerConfig(width=32, layers=2, heads=2, key_value_heads=1, hidden_width=64).resolve(97)
    model = Transformer(config)
    initialise_weights(model, config, seed=3)
    return model.eval()


def plain_loss(model: Transformer, tokens: np.ndarray, start: int, first: int, stop: int) -> float:
    """The summed loss of targets first … stop - 1 with context from `start`, from whole logits."""
    ids = torch.from_numpy(tokens[start:stop])
    with torch.no_grad():
        logits = model(ids[None, :-1])[0]
    losses = cross_entropy(logits, ids[1:], reduction="none")
    return float(losses[first - 1 - start :].double().sum())


@pytest.mark.parametrize("overlap", [0, 5, 15])
def test_scores_are_the_sums_of_plain_cross_entropy(model, overlap):
    tokens = np.random.default_rng(0).integers(0, 97, 123)
    sizes = np.arange(128)
    score = score_tokens(model, tokens, sizes, 16, overlap, batch=3, device=torch.device("cpu"))
    expected = sum(plain_loss(model, tokens, *window) for window in windows(len(tokens), 16, overlap))
    assert score.tokens == 122
    assert score.bytes == int(tokens[1:].sum())
    assert score.nats == pytest.approx(expected, rel=1e-6)


def test_the_batch_does_not_change_the_score(model):
    tokens = np.random.default_rng(1).integers(0, 97, 200)
    sizes = np.ones(128, dtype=np.int64)
    one, many = (
        score_tokens(model, tokens, sizes, 16, 0, batch=batch, device=torch.device("cpu")).nats for batch in (1, 7)
    )
    assert one == pytest.approx(many, rel=1e-6)


def test_bits_per_byte_of_a_uniform_guess_are_its_entropy():
    score = Score(nats=50 * math.log(256), tokens=50, bytes=50)
    assert score.bits_per_byte == pytest.approx(8.0)
    assert score.perplexity == pytest.approx(256.0)


def test_compressors_are_the_standard_librarys_at_their_best():
    content = b"the cat sat on the mat. " * 50
    rates = Text("text", np.zeros(1, dtype=np.int64), content).compressed_bits_per_byte()
    assert rates["gzip_9"] == 8 * len(gzip.compress(content, compresslevel=9)) / len(content)
    assert rates["xz_9"] == 8 * len(lzma.compress(content, preset=9)) / len(content)
