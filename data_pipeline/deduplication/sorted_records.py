"""External sorting: records of a key and a document, sorted in files of bounded size, read together by ranges of keys.

A file is a (2, records) npy array of 64-bit numbers, keys above documents, in the order of (key, document). Keys are
hashes, so equal ranges of them hold about equally many records, but for keys that many documents share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.hashing import Hashes
from data_pipeline.foundation.files import whole_file

ALL_KEYS = 1 << 64


@dataclass(frozen=True)
class KeyRange:
    """The keys from `low` to below `high`."""

    low: int
    high: int

    def around(self, key: int) -> tuple[KeyRange, KeyRange, KeyRange]:
        """Return the keys below a key, the key itself, and the keys above it."""
        return KeyRange(self.low, key), KeyRange(key, key + 1), KeyRange(key + 1, self.high)


def equal_ranges(count: int) -> list[KeyRange]:
    """Cut all keys into `count` ranges."""
    bounds = [number * ALL_KEYS // count for number in range(count + 1)]
    return [KeyRange(low, high) for low, high in pairwise(bounds)]


def write_records(path: Path, keys: Hashes, documents: NDArray[np.int64]) -> None:
    """Sort records and write them to a file that appears when it is whole.

    Args:
        keys: (records,).
        documents: (records,) ascending where keys are equal.
    """
    order = np.argsort(keys, kind="stable")
    with whole_file(path) as file:
        np.save(file, np.stack((keys[order], documents[order].astype(np.uint64))))


class RecordFiles:
    """The records of several files, the documents of each file greater than those of the file before."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths

    def survey(self, keys: KeyRange) -> tuple[int, int]:
        """Return the number of records, and a key in the midst of them: the most common one where it prevails."""
        count = largest = 0
        middle = keys.low
        for records in self._slices(keys):
            found = records.shape[1]
            count += found
            if found > largest:
                largest, middle = found, int(records[0, found // 2])
        return count, middle

    def read(self, keys: KeyRange) -> tuple[Hashes, NDArray[np.int64]]:
        """Return (records,) keys and documents in the order of (key, document)."""
        found = np.concatenate([np.array(records) for records in self._slices(keys)], axis=1)
        # Stable, and made for runs that are sorted already.
        order = np.argsort(found[0], kind="stable")
        return found[0][order], found[1][order].astype(np.int64)

    def documents(self, key: int) -> Iterator[NDArray[np.int64]]:
        """Yield the documents of one key in ascending order, file by file."""
        for records in self._slices(KeyRange(key, key + 1)):
            yield records[1].astype(np.int64)

    def _slices(self, keys: KeyRange) -> Iterator[NDArray[np.uint64]]:
        # One file is open at a time: there can be more of them than a process may have open.
        for path in self._paths:
            records = np.load(path, mmap_mode="r")
            start = int(np.searchsorted(records[0], np.uint64(keys.low)))
            stop = int(np.searchsorted(records[0], np.uint64(keys.high))) if keys.high < ALL_KEYS else records.shape[1]
            yield records[:, start:stop]
