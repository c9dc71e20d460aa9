"""Exact duplicates: texts that a reader couldn't tell apart, found by a 128-bit hash."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.deduplication.matching import Matching

KEY_BYTES = 16


@dataclass
class ExactDuplicatesConfig:
    """Settings for exact duplicates.

    Args:
        enabled: drop documents whose text stands in an earlier one: the same but for Unicode's spelling of the same
            characters (NFC), the kind of line ends, white space at the end of lines and blank lines around the text.
    """

    enabled: bool = True

    def matching(self) -> Matching:
        return Matching("text_keys", slots=KEY_BYTES, bands=1, rows=KEY_BYTES, agreement=KEY_BYTES)


def text_keys(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return (texts, 16) bytes: the xxh3-128 of each text as a reader sees it.

    Two of a billion different texts have the same key with a probability of about 1e-21.
    """
    keys = b"".join(xxhash.xxh3_128_digest(_as_read(text).encode()) for text in texts)
    return np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)


def _as_read(text: str) -> str:
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join([line.rstrip() for line in lines]).strip("\n")
