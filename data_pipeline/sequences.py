"""Sequences by their numbers: the order says where they lie, the packing what of, the store what is there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.labels import LEARNT
from data_pipeline.order import Order
from data_pipeline.packing import Packing
from data_pipeline.pieces import Numbers, Pieces, alike, ranges
from data_pipeline.store import Store


@dataclass(frozen=True)
class Rows:
    """Sequences of one length.

    Args:
        tokens: (rows, T + 1) of the dataset's dtype; inputs are all but the last, targets all but the first.
        ignored: (rows, T) booleans, targets that nothing is learnt from; None where there are none.
        labels: (rows, T + 1) uint8, of the tokens of samples; None of running text.
        document_ends: per row, the exclusive ends of documents within its T inputs, ascending, the last one T; None
            where nobody asked for them.
    """

    tokens: NDArray
    ignored: NDArray[np.bool_] | None
    document_ends: list[list[int]] | None
    labels: NDArray[np.uint8] | None = None


class SequenceSource(Protocol):
    """Sequences that are read by number, of one length."""

    @property
    def length(self) -> int:
        """T."""
        ...

    @property
    def per_epoch(self) -> int:
        """How many there are."""
        ...

    def read(self, numbers: Numbers, with_documents: bool = False) -> Rows:
        """Return sequences. Raises BadFile: a file that they lie in can't be read."""
        ...

    def rest(self) -> None:
        """Give up what is held only to read faster: nothing will be read for a while."""
        ...


class Sequences:
    """Reads sequences by number.

    Args:
        packings, sources: of the order's lines, and their names; one without a name is all sources as they come.
    """

    def __init__(self, order: Order, packings: Sequence[Packing], store: Store, sources: Sequence[str]):
        self.order, self.packings, self.store, self.sources = order, packings, store, sources
        self._windows: dict[int, tuple[list[int], list[int]]] = {}

    @property
    def per_epoch(self) -> int:
        """Whole sequences of the first length in one pass over the first source."""
        line = self.order.lines[0]
        return line.length if self.order.packed else (line.length - 1) // self.length

    @property
    def length(self) -> int:
        """T of the first sequences."""
        return self.order.steps.segments[0].length

    def rest(self) -> None:
        """Let go of all shards, which take up room in a cache, until the next time."""
        self.store.expect([], [])

    def read(self, numbers: Numbers, with_documents: bool = False) -> Rows:
        """Assemble sequences of one segment. Where a shard is left out, they have end-of-document tokens.

        Raises:
            BadFile: a shard that they lie in is missing, can't be reached, or is damaged.
        """
        self._look_ahead(numbers)
        length, pieces = self.pieces(numbers)
        gone = np.isin(pieces.shards, self.store.left_out)
        lost, kept = pieces.at(gone), pieces.at(~gone)
        tokens = np.empty((len(numbers), length + 1), self.store.dtype)
        ignored = None
        if self.packings[0].pads or len(lost):
            tokens.fill(self.store.end_of_document)
            ignored = self._padding(pieces, len(numbers), length)
            if len(lost):
                ignored |= self._untaught(lost, len(numbers), length)
        self.store.read(kept, tokens)
        ends = self._document_ends(kept, lost, len(numbers), length) if with_documents else None
        labels = None
        if self.store.labelled:
            labels = np.zeros((len(numbers), length + 1), np.uint8)
            self.store.read_labels(kept, labels)
            unlearnt = labels[:, 1:] & LEARNT == 0
            ignored = unlearnt if ignored is None else ignored | unlearnt
        return Rows(tokens, ignored, ends, labels)

    def needed_at_once(self) -> Iterator[tuple[str, int, int]]:
        """Yield of each source how many shards are needed at once, and what the largest of them have in bytes."""
        for source, line, packing in zip(self.sources, self.order.lines, self.packings):
            count = line.shards_at_once(self.order.longest_window)
            records = [self.store.shards[shard] for shard in packing.shards]
            sizes = sorted((record.bytes + record.index_bytes for record in records), reverse=True)
            yield source, count, sum(sizes[:count])

    def per_epoch_of(self, shard: int) -> tuple[int, int]:
        """Return how many sequences of the first length a shard gives in an epoch, about, and how many tokens."""
        length = next(
            int(packing.shard_lengths()[at])
            for packing in self.packings
            for at in np.flatnonzero(packing.shards == shard)
        )
        sequences = length if self.order.packed else length // self.length
        return sequences, self.store.shards[shard].tokens

    def begun(self, shard: int, step: int) -> bool:
        """Tell whether the window that a shard's cells are shuffled in may have been read from before a step."""
        for line, packing, reached in zip(self.order.lines, self.packings, self.order.reached(step)):
            if reached and shard in packing.shards[line.windows(reached - 1, reached - 1)[0]]:
                return True
        return False

    def pieces(self, numbers: Numbers) -> tuple[int, Pieces]:
        """Return the length of sequences of one segment, and what they are made of."""
        ((_, located),) = self.order.locate(numbers)
        parts = []
        for source, rows in alike(located.sources):
            line, packing = self.order.lines[source], self.packings[source]
            found = packing.pieces(line, located.positions[rows], located.length)
            parts.append(found if isinstance(rows, slice) else found.in_rows(rows[found.rows]))
        return located.length, parts[0] if len(parts) == 1 else Pieces.joined(parts)

    def _look_ahead(self, numbers: Numbers) -> None:
        """Tell the store which shards the windows around sequences are made of, and which come after them."""
        for source, first, last in self.order.reach(numbers):
            shards = self.packings[source].shards
            *now, later = (shards[window].tolist() for window in self.order.lines[source].windows(first, last))
            self._windows[source] = list(itertools.chain(*now)), later
        self.store.expect(*(list(itertools.chain(*each)) for each in zip(*self._windows.values())))

    def _padding(self, pieces: Pieces, count: int, length: int) -> NDArray[np.bool_]:
        filled = np.bincount(pieces.rows, pieces.lengths, count)
        return np.arange(1, length + 1) >= filled[:, None]

    def _untaught(self, lost: Pieces, count: int, length: int) -> NDArray[np.bool_]:
        """Return which targets are lost, or would be foretold from a token that is."""
        gone = np.zeros((count, length + 1), np.bool_)
        gone[np.repeat(lost.rows, lost.lengths), ranges(lost.columns, lost.lengths)] = True
        return gone[:, :-1] | gone[:, 1:]

    def _document_ends(self, kept: Pieces, lost: Pieces, count: int, length: int) -> list[list[int]]:
        rows, ends = lost.rows, lost.columns + lost.lengths
        if len(kept):
            rows, ends = map(np.concatenate, zip((rows, ends), self.packings[0].document_ends(kept)))
        order = np.lexsort((ends, rows))
        order = order[ends[order] < length]
        bounds = np.searchsorted(rows[order], np.arange(count + 1))
        found = ends[order].tolist()
        return [[*found[first:stop], length] for first, stop in itertools.pairwise(bounds)]
