"""Two ways from the documents of a source to sequences of T tokens.

*Concatenate*: the documents lie end to end on one line of tokens, cut every T tokens. Nothing is wasted; long documents
go on in the next sequence, short ones may be cut at the end of one.

*Best fit* (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"): no document is cut that could be whole.
One longer than a sequence fills whole ones; what remains of it, and all shorter documents, are packed so that each lies
in one sequence: the longest first, each where it leaves the least room. The rest of a sequence is padding, a percent or
so, from which nothing is learnt.

*Single*: each document has a row to itself, so that a batch of rows is one of documents, such as problems to solve.

A row has T + 1 tokens: the first T are inputs, the last T targets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from data_pipeline.line import Line, remember
from data_pipeline.pieces import Numbers, Pieces, alike, ranges
from data_pipeline.shards import ShardIndex

KINDS = CONCATENATE, BEST_FIT, SINGLE = ("concatenate", "best_fit", "single")
GROUP_ROWS = 1024
"""Rows' worth of blocks that are packed together: enough for a good fit, few enough to be packed in milliseconds."""
GROUPS_KEPT = 64


class Index(Protocol):
    """Gives the index of a shard of the split."""

    def __call__(self, shard: int) -> ShardIndex: ...


class Packing(Protocol):
    """How one source's line is measured, and what lies at a position of it.

    Args:
        pads: rows may end with padding.
        shards: the source's, by their numbers in the split.
    """

    pads: bool
    shards: Numbers

    def shard_lengths(self) -> Numbers: ...

    def cell_lengths(self, shard: int) -> Numbers:
        """Return the lengths of the cells of the source's n-th shard."""
        ...

    def pieces(self, line: Line, positions: Numbers, length: int) -> Pieces:
        """Return what the rows that begin at positions of the line are made of."""
        ...

    def document_ends(self, pieces: Pieces) -> tuple[Numbers, Numbers]:
        """Return the row and the exclusive end in it of every document that ends within pieces, or is cut there."""
        ...


class Concatenate:
    """A line of tokens, whose cells are blocks.

    Args:
        shards: the source's, by their numbers in the split.
        tokens: (shards,) of each.
        index: of a shard.
    """

    pads = False

    def __init__(self, shards: Sequence[int], tokens: Sequence[int], index: Index):
        self.shards, self._tokens, self._index = np.array(shards), np.array(tokens, np.int64), index

    def shard_lengths(self) -> Numbers:
        return self._tokens

    def cell_lengths(self, shard: int) -> Numbers:
        return self._index(int(self.shards[shard])).token_counts

    def pieces(self, line: Line, positions: Numbers, length: int) -> Pieces:
        """Follow every row from block to block until it is full, all rows at once."""
        parts: list[Pieces] = []
        rows = np.arange(len(positions))
        columns = np.zeros(len(positions), np.int64)
        while len(rows):
            places = line.locate(positions[rows] + columns[rows])
            taken = np.minimum(places.left, length + 1 - columns[rows])
            parts.append(Pieces(rows, columns[rows], self.shards[places.shards], places.cells, places.offsets, taken))
            columns[rows] += taken
            rows = rows[columns[rows] <= length]
        return parts[0] if len(parts) == 1 else Pieces.joined(parts)

    def document_ends(self, pieces: Pieces) -> tuple[Numbers, Numbers]:
        rows, ends = [], []
        for shard, chosen in alike(pieces.shards):
            mine, index = pieces.at(chosen), self._index(shard)
            before = np.cumsum(index.token_counts) - index.token_counts
            # All documents of the shard on one line, so that one search finds those of every piece.
            line = index.document_ends + np.repeat(before, index.document_counts)
            starts = before[mine.blocks] + mine.offsets
            first, stop = (np.searchsorted(line, at, side="right") for at in (starts, starts + mine.lengths))
            rows.append(np.repeat(mine.rows, stop - first))
            ends.append(line[ranges(first, stop - first)] - np.repeat(starts - mine.columns, stop - first))
        return np.concatenate(rows), np.concatenate(ends)


@dataclass(frozen=True)
class _PackedGroup:
    """The pieces of a group's rows, row by row; those of row r are at `starts[r]` to `starts[r + 1]`."""

    pieces: Pieces
    starts: Numbers


class BestFit:
    """A line of packed rows, whose cells are groups of blocks.

    Args:
        shards: the source's, by their numbers in the split.
        index: of a shard.
        length: T.
        group_rows: (shards, groups) rows of each group; see `count_rows`.
        single: each document has a row to itself.
    """

    pads = True

    def __init__(
        self, shards: Sequence[int], index: Index, length: int, group_rows: Sequence[Numbers], single: bool = False
    ):
        self.shards, self._index, self._length, self._group_rows = np.array(shards), index, length, group_rows
        self._single = single
        self._groups: OrderedDict[tuple[int, int], _PackedGroup] = OrderedDict()

    def shard_lengths(self) -> Numbers:
        return np.array([rows.sum() for rows in self._group_rows], np.int64)

    def cell_lengths(self, shard: int) -> Numbers:
        return self._group_rows[shard]

    def pieces(self, line: Line, positions: Numbers, length: int) -> Pieces:
        places = line.locate(positions)
        parts: list[Pieces] = []
        keys = places.shards * (int(places.cells.max()) + 1) + places.cells
        for _, rows in alike(keys):
            group = self._group(int(places.shards[rows][0]), int(places.cells[rows][0]))
            first = group.starts[places.offsets[rows]]
            counts = group.starts[places.offsets[rows] + 1] - first
            found = group.pieces.at(ranges(first, counts))
            parts.append(found.in_rows(np.repeat(np.arange(len(positions))[rows], counts)))
        return Pieces.joined(parts)

    def document_ends(self, pieces: Pieces) -> tuple[Numbers, Numbers]:
        return pieces.rows, pieces.columns + pieces.lengths

    def _group(self, shard: int, group: int) -> _PackedGroup:
        if (shard, group) not in self._groups:
            number = int(self.shards[shard])
            packed = _pack_group(number, self._index(number), group, self._length, self._single)
            # An index that stands in for a lost one has no documents: the rows that there were are empty.
            empty = self._group_rows[shard][group] + 1 - len(packed.starts)
            packed = replace(packed, starts=np.append(packed.starts, np.full(empty, packed.starts[-1])))
            remember(self._groups, (shard, group), packed, GROUPS_KEPT)
        return self._groups[shard, group]


def count_rows(index: ShardIndex, length: int, single: bool = False) -> Numbers:
    """Return how many rows each group of a shard packs into. About a second for a million documents."""
    documents = _Documents(index)
    groups = _group_of_blocks(index, length)[documents.blocks]
    whole, rest = documents.divided(length)
    rows = np.bincount(groups, whole, minlength=int(groups[-1]) + 1).astype(np.int64)
    bounds = np.searchsorted(groups, np.arange(len(rows) + 1))
    for group in range(len(rows)):
        items = rest[bounds[group] : bounds[group + 1]]
        rows[group] += len(_fit(items[items > 1], length + 1, single))
    return rows


def document_lengths(index: ShardIndex) -> Numbers:
    """Return the tokens of each document of a shard, with the one that ends it."""
    return _Documents(index).lengths


def _group_of_blocks(index: ShardIndex, length: int) -> Numbers:
    """Return the group of each block: runs of blocks with the tokens of GROUP_ROWS rows, about."""
    before = np.cumsum(index.token_counts) - index.token_counts
    return np.unique(before // (GROUP_ROWS * length), return_inverse=True)[1]


class _Documents:
    """The documents of a shard.

    Args:
        blocks, starts, lengths: (documents,) which block, where in it, how many tokens.
    """

    def __init__(self, index: ShardIndex):
        self.blocks = np.repeat(np.arange(len(index.document_counts)), index.document_counts)
        ends = index.document_ends.astype(np.int64)
        firsts = np.cumsum(index.document_counts) - index.document_counts
        self.starts = np.concatenate(([0], ends[:-1]))
        self.starts[firsts] = 0
        self.lengths = ends - self.starts

    def divided(self, length: int) -> tuple[Numbers, Numbers]:
        """Return how many whole rows each document fills, and the tokens of the piece that remains, if above 1.

        A document of L tokens has L - 1 targets, T in a whole row; pieces overlap by the token that is the target of
        one and the first input of the next.
        """
        whole, rest = np.divmod(self.lengths - 1, length)
        return whole, rest + 1


def _pack_group(shard: int, index: ShardIndex, group: int, length: int, single: bool) -> _PackedGroup:
    documents = _Documents(index)
    mine = np.flatnonzero(_group_of_blocks(index, length)[documents.blocks] == group)
    whole, rest = (each[mine] for each in documents.divided(length))
    blocks, starts = documents.blocks[mine], documents.starts[mine]
    filling = np.repeat(np.arange(len(mine)), whole)
    full_rows = len(filling)
    remaining = np.flatnonzero(rest > 1)
    packed = _fit(rest[remaining], length + 1, single)
    order = remaining[np.array([item for row in packed for item in row], np.int64)]
    sizes = np.array([len(row) for row in packed], np.int64)
    lengths = np.concatenate((np.full(full_rows, length + 1), rest[order]))
    rows = np.concatenate((np.arange(full_rows), full_rows + np.repeat(np.arange(len(packed)), sizes)))
    piece_starts = np.concatenate((np.arange(full_rows), full_rows + np.cumsum(sizes) - sizes, [len(rows)]))
    before = np.cumsum(lengths) - lengths
    offsets = np.concatenate(
        (
            starts[filling] + length * ranges(np.zeros(len(mine), np.int64), whole),
            (starts + length * whole)[order],
        )
    )
    return _PackedGroup(
        Pieces(
            rows=rows,
            columns=before - before[piece_starts[rows]],
            shards=np.full(len(rows), shard),
            blocks=np.concatenate((blocks[filling], blocks[order])),
            offsets=offsets,
            lengths=lengths,
        ),
        piece_starts,
    )


def _fit(lengths: Numbers, capacity: int, single: bool) -> list[list[int]]:
    return [[item] for item in range(len(lengths))] if single else _best_fit(lengths, capacity)


def _best_fit(lengths: Numbers, capacity: int) -> list[list[int]]:
    """Pack items into rows, the longest first, each into the row with the least room that takes it.

    The amounts of room that some open row has are the bits of one large integer, so that the least one that suffices
    is found in a few machine instructions a word.

    Returns:
        the numbers of the items in each row.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    order = np.argsort(-lengths, kind="stable")
    for item, length in zip(order.tolist(), lengths[order].tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
            rows[row].append(item)
        else:
            room, row = capacity, len(rows)
            rows.append([item])
        if room > length:
            if not open_rows[room - length]:
                rooms |= 1 << (room - length)
            open_rows[room - length].append(row)
    return rows
