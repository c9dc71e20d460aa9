"""The tokens of a part, with its documents in the order of the shuffle, so that a shard's share of it lies together.

A document's place in the shuffled dataset is a hash of its text: within a split and source, documents are sorted by it.
Sorting by a hash is a shuffle of everything that needs no memory of everything, and puts a document in the same place
whatever else is done by whom.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.foundation.files import whole_file
from data_pipeline.manifest import SPLITS

ORDER_SEED = 1
"""Not the seed of the hash that chooses the split, or validation documents would lie at one end of the order."""


@dataclass(frozen=True)
class EncodedDocument:
    """A document's tokens, ended by the end-of-document token, and what goes with them.

    Args:
        place: in the shuffled order, a 64-bit hash.
        number: in the corpus as it was read; decides between equal places.
        key: where it came from; empty where that isn't kept.
        labels: (tokens,) uint8 of a sample's tokens; None of running text.
    """

    tokens: NDArray
    split: str
    place: int
    number: int
    key: str = ""
    labels: NDArray[np.uint8] | None = None


def place_of(content: bytes) -> int:
    """Return the place of a document, its text in UTF-8, in the shuffled order, of 2⁶⁴."""
    return xxhash.xxh3_64_intdigest(content, seed=ORDER_SEED)


def write_encoded(path: Path, documents: Sequence[EncodedDocument], vocabulary_size: int, dtype: str) -> None:
    """Write a part's documents, sorted by split, place and number."""
    from safetensors.numpy import save

    used = np.zeros(vocabulary_size, np.bool_)
    for document in documents:
        used[document.tokens] = True
    ordered = sorted(documents, key=lambda each: (SPLITS.index(each.split), each.place, each.number))
    keys = [document.key.encode() for document in ordered]
    arrays = {
        "tokens": np.concatenate([np.empty(0, dtype), *(document.tokens for document in ordered)]),
        "ends": np.cumsum([len(document.tokens) for document in ordered], dtype=np.int64),
        "splits": np.array([SPLITS.index(document.split) for document in ordered], np.uint8),
        "places": np.array([document.place for document in ordered], np.uint64),
        "numbers": np.array([document.number for document in ordered], np.int64),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        "vocabulary": np.packbits(used),
    }
    if labels := [document.labels for document in ordered if document.labels is not None]:
        arrays["labels"] = np.concatenate(labels)
    with whole_file(path) as file:
        file.write(save(arrays))


class EncodedPart:
    """A part's file, mapped: only the pages that are used are read.

    A safetensors file is 8 bytes of length, so much JSON that tells where each array lies, and the arrays.
    """

    def __init__(self, path: Path):
        self._bytes = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        self._first = 8 + length
        self._layout = json.loads(self._bytes[8 : self._first].tobytes())

    def documents(self, split: str) -> range:
        """Return the numbers of a split's documents within the part."""
        number = SPLITS.index(split)
        first, stop = np.searchsorted(self.array("splits"), (number, number + 1))
        return range(int(first), int(stop))

    def labels(self) -> NDArray[np.uint8] | None:
        """Return the labels of all tokens, if these are samples."""
        return self.array("labels") if "labels" in self._layout else None

    def array(self, name: str) -> NDArray:
        layout = self._layout[name]
        start, stop = layout["data_offsets"]
        return self._bytes[self._first + start : self._first + stop].view(DTYPES[layout["dtype"]])


DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "I64": np.int64}
