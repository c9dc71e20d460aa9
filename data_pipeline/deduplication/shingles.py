"""Texts to shingles: hashes of every n consecutive tokens, many texts at once in numpy, some 50 MB a second.

A token is a word in scripts that put spaces between words, and one character in those that don't (Chinese, Japanese,
Thai …). Case and canonically equivalent spellings make no difference; punctuation and symbols only separate.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.hashing import Hashes, mixed, run_hashes

WINDOW_CHARACTERS = 1 << 18
"""Looked at together, so that the arrays stay in cache. A longer text is cut, through a word if need be: that costs a
handful of its tens of thousands of shingles."""

UNSPACED_SCRIPTS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # iteration mark, closing mark and zero among Han
    (0x302A, 0x302D),  # tone marks of Han
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3190, 0x319F),  # annotations of Han
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAA7F),  # Myanmar
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFF9F),  # halfwidth Katakana
    (0x1AFF0, 0x1B16F),  # Hiragana, Katakana
    (0x20000, 0x3FFFF),  # Han
)
ASSIGNED = (range(0x40000), range(0xE0100, 0xE01F0))
"""Where there are letters, marks and numbers. Elsewhere there are only tags and characters for private use."""
SEPARATOR, IN_WORD, ALONE = 0, 1, 2


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts, as they come, repetitions included.

    Args:
        hashes: (shingles,) of all texts behind one another.
        offsets: (texts + 1,) where each text's begin, and the last one's end.
    """

    hashes: Hashes
    offsets: NDArray[np.uint64]


def shingle(texts: Sequence[str], length: int) -> Shingles:
    """Return the shingles of some texts.

    A text of fewer than `length` tokens has one shingle of all of them, so it can only be like those with the same
    tokens; one without tokens has none.

    Args:
        texts: a megabyte or so of them together; memory grows with their length.
        length: tokens in a shingle.
    """
    tokens, ends = _tokens(texts)
    starts = np.concatenate(([0], ends[:-1]))
    counts = np.where(ends > starts, np.maximum(ends - starts - length + 1, 1), 0)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    first = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    stop = np.minimum(first + length, np.repeat(ends, counts))
    return Shingles(run_hashes(tokens, first, stop), offsets.astype(np.uint64))


def _tokens(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all tokens, and where each text's end."""
    folded = [unicodedata.normalize("NFC", text).casefold() for text in texts]
    joined = "\n".join(folded) + "\n"
    hashes, starts = [], []
    for first in range(0, len(joined), WINDOW_CHARACTERS):
        window = joined[first : first + WINDOW_CHARACTERS]
        found = _tokens_of_window(np.frombuffer(window.encode("utf-32-le"), np.uint32))
        hashes.append(found[0])
        starts.append(found[1] + first)
    text_ends = np.cumsum([len(text) + 1 for text in folded])
    return np.concatenate(hashes), np.searchsorted(np.concatenate(starts), text_ends)


def _tokens_of_window(code_points: NDArray[np.uint32]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of the tokens, and where they start."""
    kinds, letters = _characters()
    kind = kinds[code_points]
    alone = kind == ALONE
    in_word = np.zeros(len(kind) + 2, bool)
    in_word[1:-1] = kind == IN_WORD
    starts = np.flatnonzero(alone | (in_word[1:-1] & ~in_word[:-2]))
    ends = np.flatnonzero(alone | (in_word[1:-1] & ~in_word[2:])) + 1
    return run_hashes(letters[code_points], starts, ends), starts


@functools.lru_cache(maxsize=1)
def _characters() -> tuple[NDArray[np.uint8], Hashes]:
    """Return what every code point is in a text, and its hash."""
    kinds = np.full(0x110000, SEPARATOR, np.uint8)
    kinds[[point for point in chain(*ASSIGNED) if unicodedata.category(chr(point))[0] in "LMN"]] = IN_WORD
    for first, last in UNSPACED_SCRIPTS:
        script = kinds[first : last + 1]
        script[script == IN_WORD] = ALONE
    return kinds, mixed(np.arange(1, len(kinds) + 1, dtype=np.uint64))
