"""The parts of a corpus: as the flow numbers their documents, and as they are worked on, as rows without gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SignedPart:
    """A part whose signatures have been written.

    Args:
        signatures: file of its signatures.
        duplicates: file to write, of which of its documents are duplicates.
        first_document: global number of its first document. Numbers ascend over the parts, and may leave gaps.
    """

    signatures: Path
    duplicates: Path
    first_document: int


@dataclass(frozen=True)
class Group:
    """Consecutive parts that are read together.

    Args:
        parts, counts: each part, and the number of its documents.
        first_row: of its documents.
    """

    number: int
    parts: tuple[SignedPart, ...]
    counts: tuple[int, ...]
    first_row: int

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + sum(self.counts))

    def places(self) -> Iterator[tuple[SignedPart, slice]]:
        """Yield each part with the place of its documents among those of the group."""
        first = 0
        for part, count in zip(self.parts, self.counts):
            yield part, slice(first, first + count)
            first += count


class Corpus:
    """All parts.

    Args:
        counts: of each part's documents.
    """

    def __init__(self, parts: Sequence[SignedPart], counts: Sequence[int]):
        for (part, count), (following, _) in pairwise(zip(parts, counts)):
            if part.first_document + count > following.first_document:
                raise ValueError(f"{part.signatures} and {following.signatures} have documents of the same numbers")
        self._parts, self._counts = tuple(parts), tuple(counts)
        self._first_rows = [0, *np.cumsum(self._counts).tolist()]
        self.documents: int = self._first_rows[-1]

    def groups(self, documents: int) -> list[Group]:
        """Put parts together to groups of at most so many documents, but for a part that has more by itself."""
        bounds = [0]
        for part in range(len(self._parts)):
            if part > bounds[-1] and self._first_rows[part + 1] - self._first_rows[bounds[-1]] > documents:
                bounds.append(part)
        return [
            Group(number, self._parts[start:stop], self._counts[start:stop], self._first_rows[start])
            for number, (start, stop) in enumerate(pairwise([*bounds, len(self._parts)]))
        ]

    def numbering(self) -> Numbering:
        numbers = [part.first_document for part in self._parts]
        return Numbering(np.array(self._first_rows[:-1], np.int64), np.array(numbers, np.int64))


@dataclass(frozen=True)
class Numbering:
    """From rows to global numbers.

    Args:
        rows, numbers: (parts,) row and global number of each part's first document.
    """

    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        part = np.searchsorted(self.rows, rows, side="right") - 1
        return self.numbers[part] + rows - self.rows[part]
