"""Sequences by their numbers: the order says where they lie, the packing what of, the store what is there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order import Order
from data_pipeline.packing import Packing
from data_pipeline.pieces import Numbers, Pieces, alike
from data_pipeline.store import Store


@dataclass(frozen=True)
class Rows:
    """Sequences of one length.

    Args:
        tokens: (rows, T + 1) of the dataset's dtype; inputs are all but the last, targets all but the first.
        ignored: (rows, T) booleans, targets that nothing is learnt from; None where there are none.
        document_ends: per row, the exclusive ends of documents within its T inputs, ascending, the last one T; None
            where nobody asked for them.
    """

    tokens: NDArray
    ignored: NDArray[np.bool_] | None
    document_ends: list[list[int]] | None


class Sequences:
    """Reads sequences by number.

    Args:
        packings, sources: of the order's lines, and their names; one without a name is all sources as they come.
    """

    def __init__(self, order: Order, packings: Sequence[Packing], store: Store, sources: Sequence[str]):
        self.order, self.packings, self.store, self.sources = order, packings, store, sources

    @property
    def per_epoch(self) -> int:
        """Whole sequences of the first length in one pass over the first source."""
        line, length = self.order.lines[0], self.order.steps.segments[0].length
        return line.length if self.order.packed else (line.length - 1) // length

    def read(self, numbers: Numbers, with_documents: bool = False) -> Rows:
        """Assemble sequences of one segment.

        Raises:
            Failure: a shard that they lie in is missing or damaged.
        """
        length, pieces = self.pieces(numbers)
        tokens = np.empty((len(numbers), length + 1), self.store.dtype)
        ignored = None
        if self.packings[0].pads:
            tokens.fill(self.store.end_of_document)
            ignored = self._padding(pieces, len(numbers), length)
        self.store.read(pieces, tokens)
        ends = self._document_ends(pieces, len(numbers), length) if with_documents else None
        return Rows(tokens, ignored, ends)

    def pieces(self, numbers: Numbers) -> tuple[int, Pieces]:
        """Return the length of sequences of one segment, and what they are made of."""
        ((_, located),) = self.order.locate(numbers)
        parts = []
        for source, rows in alike(located.sources):
            line, packing = self.order.lines[source], self.packings[source]
            found = packing.pieces(line, located.positions[rows], located.length)
            parts.append(found if isinstance(rows, slice) else found.in_rows(rows[found.rows]))
        return located.length, parts[0] if len(parts) == 1 else Pieces.joined(parts)

    def _padding(self, pieces: Pieces, count: int, length: int) -> NDArray[np.bool_]:
        filled = np.bincount(pieces.rows, pieces.lengths, count)
        return np.arange(1, length + 1) >= filled[:, None]

    def _document_ends(self, pieces: Pieces, count: int, length: int) -> list[list[int]]:
        rows, ends = self.packings[0].document_ends(pieces)
        order = np.lexsort((ends, rows))
        order = order[ends[order] < length]
        bounds = np.searchsorted(rows[order], np.arange(count + 1))
        found = ends[order].tolist()
        return [[*found[first:stop], length] for first, stop in itertools.pairwise(bounds)]
