"""Hashes of many numbers, and of many runs of numbers, at once: 64-bit arithmetic in numpy that wraps around."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BASE = 0x9E3779B97F4A7C15
USUAL_NUMBERS = 1 << 18


def mixed(numbers: Hashes) -> Hashes:
    """Return a hash of each number: a permutation of the 64-bit numbers, so different ones stay different.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
    """
    hashes = numbers ^ (numbers >> np.uint64(30))
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def run_hashes(numbers: Hashes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """Return a hash of each run `numbers[start:end]`; runs may overlap.

    A polynomial in BASE modulo 2**64, as in the fingerprints of Karp and Rabin (1987), but of all runs at once: the
    difference of two prefix sums, divided by the power at which the run starts.

    Args:
        numbers: (numbers,) already well mixed.
        starts, ends: (runs,) with start < end.

    Returns:
        (runs,) well mixed.
    """
    powers, inverses = _usual_powers() if len(numbers) <= USUAL_NUMBERS else _powers(len(numbers))
    sums = np.zeros(len(numbers) + 1, np.uint64)
    np.cumsum(numbers * powers[: len(numbers)], out=sums[1:])
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


@functools.lru_cache(maxsize=1)
def _usual_powers() -> tuple[Hashes, Hashes]:
    return _powers(USUAL_NUMBERS)


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return the powers of BASE, and their inverses, which exist because it is odd."""
    tables = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        table = np.full(count, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]
