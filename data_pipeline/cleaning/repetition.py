"""How much of a text is said again: the share of characters in its most frequent and in its duplicate n-grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.cleaning.words import Words


@dataclass(frozen=True)
class _Repeated:
    """All n-grams of one length that occur more than once: rising starts, ends, and a number for each wording."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    groups: NDArray[np.int64]


class Repetition:
    """The measures of repeated n-grams of Rae et al. 2021 (Gopher), table A1.

    An n-gram is the shortest run of units that counts n words, so that in Chinese ten words are seventeen characters.
    Shares are of the characters in words; white space and separators don't count. A character in several n-grams counts
    once.
    """

    def __init__(self, words: Words):
        self._words = words
        self._characters = np.concatenate(([0], np.cumsum(words.lengths)))
        self._repeated: list[_Repeated] = []

    def top(self, n: int) -> float:
        """Return the share of characters in the most frequent n-gram, the longest if several are; 0 if none repeats."""
        found = self._of_length(n)
        if not len(found.starts):
            return 0.0
        counts = np.bincount(found.groups)
        characters = np.bincount(found.groups, self._characters[found.ends] - self._characters[found.starts])
        top = np.argmax(np.where(counts == counts.max(), characters, 0))
        return self._share(found, found.groups == top)

    def duplicates(self, n: int) -> float:
        """Return the share of characters in n-grams that have occurred before; their first occurrences don't count."""
        found = self._of_length(n)
        if not len(found.starts):
            return 0.0
        first = np.zeros(found.groups.max() + 1, np.int64)
        first[found.groups[::-1]] = found.starts[::-1]
        return self._share(found, found.starts != first[found.groups])

    def _share(self, found: _Repeated, chosen: NDArray[np.bool_]) -> float:
        starts, ends = found.starts[chosen], found.ends[chosen]
        if not len(starts):
            return 0.0
        # Ends rise with starts, so that what an n-gram has in common with any before, it has with the last before.
        fresh = starts.copy()
        np.maximum(starts[1:], ends[:-1], out=fresh[1:])
        return float((self._characters[ends] - self._characters[fresh]).sum() / self._characters[-1])

    def _of_length(self, n: int) -> _Repeated:
        """Only where an n-gram repeats, a longer one can: each length is sought where the one before was found."""
        while len(self._repeated) < n - 1:
            starts = self._repeated[-1].starts if self._repeated else np.arange(len(self._words))
            self._repeated.append(self._find(starts, len(self._repeated) + 2))
        return self._repeated[n - 2]

    def _find(self, starts: NDArray[np.int64], n: int) -> _Repeated:
        ends = self._words.run_ends(n, starts)
        whole = np.searchsorted(ends, len(self._words), side="right")
        starts, ends = starts[:whole], ends[:whole]
        if whole < 2:
            return _Repeated(starts[:0], ends[:0], starts[:0])
        hashes = self._words.run_hashes(starts, ends)
        order = hashes.argsort()
        hashes = hashes[order]
        same = hashes[1:] == hashes[:-1]
        groups = np.zeros(whole, np.int64)
        groups[order[1:]] = (~same).cumsum()
        repeated = np.zeros(whole, bool)
        repeated[order[1:][same]] = True
        repeated[order[:-1][same]] = True
        return _Repeated(starts[repeated], ends[repeated], groups[repeated])
