"""What rows of tokens are made of: pieces of blocks, each to be copied to a place in a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens; all arrays are of one length.

    Args:
        rows, columns: where each begins in the rows to be filled.
        shards, blocks, offsets: where it lies: in which shard of the split, which block of that, which token of that.
        lengths: tokens.
    """

    rows: Numbers
    columns: Numbers
    shards: Numbers
    blocks: Numbers
    offsets: Numbers
    lengths: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: Numbers | NDArray[np.bool_] | slice) -> Pieces:
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def in_rows(self, rows: Numbers) -> Pieces:
        """Return the same pieces for other rows."""
        return replace(self, rows=rows)

    @staticmethod
    def single(shard: int, block: int, offset: int, length: int) -> Pieces:
        """Return one piece that is a row of its own."""
        return Pieces(*(np.array([value], np.int64) for value in (0, 0, shard, block, offset, length)))

    @staticmethod
    def joined(parts: list[Pieces]) -> Pieces:
        return Pieces(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Pieces)))


def ranges(firsts: Numbers, counts: Numbers) -> Numbers:
    """Return first, first + 1, … for each first, so many of them, behind one another."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(before - firsts, counts)


def alike(values: Numbers) -> Iterator[tuple[int, Numbers | slice]]:
    """Yield each value with the indexes at which it stands. Where all are alike, which is most often, at no cost."""
    if len(values) and values[0] == values[-1] and values.min() == values.max():
        yield int(values[0]), slice(None)
    else:
        for value in np.unique(values):
            yield int(value), np.flatnonzero(values == value)
