"""Every stretch of sequences has the shares that were asked for, and each source's sequences are taken in turn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.mixture import BITS, Mixture

SHARES = some.lists(some.one_of(some.just(0.0), some.floats(1e-6, 1e3)), min_size=1, max_size=8).filter(any)


@given(SHARES, some.integers(1, 500), some.integers(0, 2**38))
def test_each_source_is_taken_in_turn_and_counted_in_closed_form(shares, count, first):
    mixture = Mixture(shares)
    numbers = np.arange(first, first + count)
    sources, within = mixture.divide(numbers)
    before, after = mixture.counts(first), mixture.counts(first + count)
    assert sum(after) == first + count
    for source in range(len(shares)):
        assert within[sources == source].tolist() == list(range(before[source], after[source]))


@given(SHARES, some.integers(0, 2**38))
def test_counts_never_stray_from_their_shares_by_more_than_the_sources(shares, count):
    exact = [Fraction(share) / sum(map(Fraction, shares)) * count for share in shares]
    tolerance = len(shares) + count * len(shares) / 2**BITS
    assert all(abs(got - want) <= tolerance for got, want in zip(Mixture(shares).counts(count), exact))


@given(SHARES)
def test_a_source_without_a_share_is_never_taken(shares):
    sources, _ = Mixture(shares).divide(np.arange(2000))
    assert all(shares[source] > 0 for source in np.unique(sources))


def test_a_batch_has_the_shares_of_the_whole():
    sources, _ = Mixture([0.5, 0.3, 0.2]).divide(np.arange(10_000))
    counts = np.stack([np.bincount(batch, minlength=3) for batch in sources.reshape(-1, 100)])
    assert np.all(abs(counts - [50, 30, 20]) <= 2)


@pytest.mark.parametrize("shares", [[0.0], [0, 0], [1, -1]])
def test_shares_of_nothing_are_refused(shares):
    with pytest.raises(ValueError, match="not shares of a whole"):
        Mixture(shares)
