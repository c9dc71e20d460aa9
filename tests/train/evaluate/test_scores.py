"""A score is a ratio of sums, and its error is what the spread over records says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.evaluate.scores import Column, ratio


def test_with_equal_weights_it_is_the_mean_with_its_standard_error():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    value, error = ratio(values, [1.0] * 5)
    assert value == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))


def test_the_error_of_a_ratio_is_that_of_many_draws():
    """A bootstrap, which knows no formula, finds the same spread."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 200, 400).astype(float)
    nats = 0.7 * sizes + draw.normal(0, 8, 400)
    value, error = ratio(list(nats), list(sizes))
    picked = draw.integers(0, 400, (4000, 400))
    drawn = nats[picked].sum(1) / sizes[picked].sum(1)
    assert value == pytest.approx(nats.sum() / sizes.sum())
    assert error == pytest.approx(drawn.std(), rel=0.06)


def test_a_perplexity_is_stretched_with_its_error():
    score = Column([2.0, 3.0, 2.5], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0], math.exp, math.exp).score("perplexity", range(3))
    assert score.value == pytest.approx(math.exp(2.5))
    assert score.standard_error == pytest.approx(math.exp(2.5) * 0.5 / math.sqrt(3))
    assert score.chance == pytest.approx(math.exp(4))


def test_one_record_has_no_error():
    assert Column([1.0]).score("accuracy", [0]).standard_error is None
