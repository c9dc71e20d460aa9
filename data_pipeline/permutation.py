"""Permutations that are the same in every process, on every machine, in every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_pipeline.foundation.files import text_hash


def permutation(count: int, *names: str | int) -> NDArray[np.int64]:
    """Return a permutation of 0 … count - 1 that depends on the names alone.

    `Generator.permutation` may change between releases; raw Philox numbers (Salmon et al. 2011) are fixed by their
    definition, and sorting by them is a permutation (ties, one in 2⁶⁴, fall to the earlier).
    """
    key = int(text_hash(" ".join(map(str, names))), 16)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable").astype(np.int64)
