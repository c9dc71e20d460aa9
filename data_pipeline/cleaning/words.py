"""The words of a text in any script, as arrays: where they are, how much they count, and hashes of them and their runs.

In scripts that put spaces between words, a word is what stands between spaces. In those that don't (Chinese, Japanese,
Thai, Lao, Khmer, Burmese, Tibetan), every character is a unit that counts as a fraction of a word: finding the true
borders takes a dictionary for each language, and neither lengths nor repetitions need them. The fraction is one over
the mean length of a word: for Chinese 1.67 characters (1.5 to 1.7 in the four corpora of Emerson 2005, The Second
International Chinese Word Segmentation Bakeoff), for the other scripts an estimate.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WHOLE = 20
"""What a word counts; all fractions are whole numbers of twentieths."""

SPACE, SEPARATOR, OTHER, DIGIT, LETTER, HANGUL, HAN, KANA, THAI, LAO, KHMER, BURMESE, TIBETAN = range(13)
"""Kinds of characters. `SEPARATOR` is punctuation of the scripts without spaces; `OTHER`, all other punctuation and
marks, joins words as letters do."""

SHARES = np.array([0, 0, WHOLE, WHOLE, WHOLE, WHOLE, 12, 10, 5, 5, 4, 4, 4], np.int64)
"""What a unit of a kind counts, in twentieths of a word."""

LETTERS = np.array([10, 20, 10, 10, 10, 20, 36, 30, 15, 15, 12, 12, 12], np.int64)
"""How many letters of an alphabet say as much as a character of a kind, in tenths: six, with the space, make a word."""

_RANGES = {
    SEPARATOR: [(0x3000, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)],
    HAN: [(0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)],
    KANA: [(0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x3100, 0x312F)],
    HANGUL: [(0x1100, 0x11FF), (0xA960, 0xA97F), (0xAC00, 0xD7FF)],
    THAI: [(0x0E01, 0x0E4E)],
    LAO: [(0x0E81, 0x0ECD)],
    TIBETAN: [(0x0F0B, 0x0F0B), (0x0F40, 0x0FBC)],
    BURMESE: [(0x1000, 0x103F), (0x1050, 0x109F)],
    KHMER: [(0x1780, 0x17D3)],
}
_SEPARATORS = "\u200b\u2026\u2014\u201c\u201d\u30fb\u0f0d\u104a\u104b\u17d4\u17d5"
_KNOWN = 0x40000
"""Code points that have a kind; beyond are tags and private use."""


@dataclass(frozen=True)
class Words:
    """The units of a text, in order.

    Args:
        codes: the text's code points, uint32.
        kinds: of the code points, uint8.
        starts: of the units, indexes into `codes`, int64.
        lengths: of the units, in code points, int64.
        shares: what each unit counts, in twentieths of a word, int64.
        hashes: of the units, uint64; equal for equal units, whatever stands around them.
    """

    codes: NDArray[np.uint32]
    kinds: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    shares: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.starts)

    @functools.cached_property
    def count(self) -> float:
        """How many words the units are together."""
        return float(self.shares.sum() / WHOLE)

    @functools.cached_property
    def _same(self) -> bool:
        return bool((self.shares == self.shares[:1]).all()) and len(self) > 0

    @functools.cached_property
    def _counted(self) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(self.shares)))

    @functools.cached_property
    def _sums(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return sums of the hashes, each times a power of an odd number, and the inverses of these powers."""
        powers, inverses = _powers(len(self))
        return np.concatenate((np.zeros(1, np.uint64), np.cumsum(self.hashes * powers))), inverses

    def run_ends(self, words: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the shortest runs end that start at some units and count at least so many words.

        Args:
            words: at least 1.
            starts: indexes of units.

        Returns:
            One past the last unit of each run; more than `len(self)` where the text ends before.
        """
        if self._same:
            return starts - words * WHOLE // -int(self.shares[0])
        return np.searchsorted(self._counted, self._counted[starts] + words * WHOLE)

    def run_hashes(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return hashes of runs of units, equal for equal runs; uint64."""
        sums, inverses = self._sums
        return (sums[ends] - sums[starts]) * inverses[starts]


def words_of_text(text: str) -> Words:
    """Return the words of a text as they stand, case and punctuation with them."""
    return _segment(text, _kinds())


def words_of_letters(texts: Sequence[str]) -> tuple[Words, NDArray[np.int64]]:
    """Return the words of texts without case and punctuation: what makes two wordings the same.

    Letters, their marks and digits count, apostrophes are dropped (don't, dont), all else parts words (well-known,
    well known).

    Args:
        texts: are taken together, because the work on a short one is mostly overhead.

    Returns:
        The words of all texts, and for each text how many units are in it and those before.
    """
    folded = [_APOSTROPHES.sub("", text.casefold()) for text in texts]
    words = _segment("\n".join(folded), _strict_kinds())
    ends = np.cumsum([len(text) + 1 for text in folded])
    return words, np.searchsorted(words.starts, ends)


_APOSTROPHES = re.compile("['’ʼ]")


def _segment(text: str, kinds_of_codes: NDArray[np.uint8]) -> Words:
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kinds = kinds_of_codes.take(codes, mode="clip")
    alone = kinds >= HAN
    inside = kinds > SEPARATOR
    borders = inside.copy()
    if alone.any():
        inside &= ~_strays(kinds, alone)
        borders[:] = inside
        borders[1:] &= ~inside[:-1] | alone[1:] | alone[:-1]
    else:
        borders[1:] &= ~inside[:-1]
    last = inside.copy()
    last[:-1] &= ~inside[1:] | borders[1:]
    starts = np.flatnonzero(borders)
    if not len(starts):
        return Words(codes, kinds, starts, starts, SHARES[starts], starts.astype(np.uint64))
    powers, inverses = _powers(len(codes))
    parts = _mixed().take(codes, mode="clip")
    parts *= powers
    parts *= inside
    hashes = np.add.reduceat(parts, starts)
    hashes *= inverses[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    return Words(codes, kinds, starts, np.flatnonzero(last) + 1 - starts, SHARES[kinds[starts]], hashes)


def _strays(kinds: NDArray[np.uint8], alone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where ASCII punctuation stands next to a character of a script without spaces, to which it is no word."""
    strays = np.zeros(len(kinds), bool)
    strays[1:] |= alone[:-1]
    strays[:-1] |= alone[1:]
    return strays & (kinds == OTHER)


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """Return the kind of every code point below `_KNOWN`, and of all others after them."""
    kinds = np.full(_KNOWN + 1, OTHER, np.uint8)
    for code in range(_KNOWN):
        character = chr(code)
        if character.isalpha():
            kinds[code] = LETTER
        elif character.isnumeric():
            kinds[code] = DIGIT
        elif character.isspace():
            kinds[code] = SPACE
    for kind, ranges in _RANGES.items():
        for first, last in ranges:
            kinds[first : last + 1] = kind
    kinds[0x3000] = SPACE
    kinds[[ord(character) for character in _SEPARATORS]] = SEPARATOR
    return kinds


@functools.cache
def _strict_kinds() -> NDArray[np.uint8]:
    """Return the kinds with nothing but letters, marks and digits in words."""
    import unicodedata

    kinds = _kinds().copy()
    for code in np.flatnonzero(kinds == OTHER):
        if unicodedata.category(chr(code))[0] != "M":
            kinds[code] = SEPARATOR
    return kinds


_BASE = 0x9E3779B97F4A7C15
_CACHED = 1 << 20


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the powers of an odd number, modulo 2^64, and their inverses."""
    if count <= _CACHED:
        powers, inverses = _cached_powers()
        return powers[:count], inverses[:count]
    return _accumulated(_BASE, count), _accumulated(pow(_BASE, -1, 1 << 64), count)


@functools.cache
def _cached_powers() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return _accumulated(_BASE, _CACHED), _accumulated(pow(_BASE, -1, 1 << 64), _CACHED)


def _accumulated(base: int, count: int) -> NDArray[np.uint64]:
    return np.multiply.accumulate(np.full(count, base, np.uint64))


@functools.cache
def _mixed() -> NDArray[np.uint64]:
    """Return a random-looking number for every code point: the output function of SplitMix64 (Steele et al. 2014)."""
    numbers = np.arange(1, _KNOWN + 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
