"""A source as one endless line: its shards shuffled and laid end to end, epoch after epoch, each epoch differently.

A shard is divided into cells: blocks of tokens, or groups of packed rows. In an epoch the shards are permuted; then, a
few shards at a time, their cells are permuted among themselves. So text from far apart comes together, while a reader
needs only a few shards at once, which is what makes remote shards and slow disks bearable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipeline.permutation import permutation
from data_pipeline.pieces import Numbers, alike

WINDOWS_KEPT = 4
"""A chunk of sequences may straddle the borders of two windows of shards; an old one may be asked for again."""


@dataclass(frozen=True)
class Places:
    """Where positions of a line lie; all arrays are of one length.

    Args:
        shards, cells: of the source, and of the shard.
        offsets: within the cell.
        left: from there to the cell's end.
    """

    shards: Numbers
    cells: Numbers
    offsets: Numbers
    left: Numbers


@dataclass(frozen=True)
class _Window:
    """The cells of a few shards in their shuffled order; `ends` counts from the beginning of the window."""

    shards: Numbers
    cells: Numbers
    lengths: Numbers
    ends: Numbers


@dataclass(frozen=True)
class _Epoch:
    """An epoch's shards in their order, a window of them after the other; `ends` of the windows in the epoch."""

    shards: list[Numbers]
    ends: Numbers


class Line:
    """Maps positions on the line to cells.

    Args:
        identity: of dataset, seed and source: what the order depends on.
        shard_lengths: (shards,) of each shard, in whatever the line is measured in.
        cell_lengths: gives (cells,) lengths of a shard's cells, which add up to the shard's.
        shards_together: shards whose cells are permuted among themselves.
        shuffle: False for storage order, the same in every epoch.
    """

    def __init__(
        self,
        identity: str,
        shard_lengths: Numbers,
        cell_lengths: Callable[[int], Numbers],
        shards_together: int,
        shuffle: bool = True,
    ):
        self.identity, self.shuffle = identity, shuffle
        self.length = int(shard_lengths.sum())
        self._shard_lengths, self._cell_lengths, self._together = shard_lengths, cell_lengths, shards_together
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], _Window] = OrderedDict()

    def locate(self, positions: Numbers) -> Places:
        """Return where positions lie. O(log cells) each, all at once."""
        found = Places(*(np.empty(len(positions), np.int64) for _ in range(4)))
        epochs, within_epoch = np.divmod(positions, self.length)
        for epoch, chosen in alike(epochs):
            ends = self._epoch(epoch).ends
            within = within_epoch[chosen]
            for number, some in alike(np.searchsorted(ends, within, side="right")):
                window = self._window(epoch, number)
                places = within[some] - (int(ends[number - 1]) if number else 0)
                at = np.searchsorted(window.ends, places, side="right")
                left = window.ends[at] - places
                rows = some if isinstance(chosen, slice) else chosen[some]
                found.shards[rows], found.cells[rows] = window.shards[at], window.cells[at]
                found.offsets[rows], found.left[rows] = window.lengths[at] - left, left
        return found

    def windows(self, first: int, last: int) -> list[Numbers]:
        """Return the shards of each window from one position's to another's, and of the one behind them."""
        found: list[Numbers] = []
        position = first
        while True:
            epoch, within = divmod(position, self.length)
            plan = self._epoch(epoch)
            number = int(np.searchsorted(plan.ends, within, side="right"))
            found.append(plan.shards[number])
            if position > last:
                return found
            position = epoch * self.length + int(plan.ends[number])

    def shards_at_once(self, positions: int) -> int:
        """Return how many shards are needed while so many positions, and what follows them, are read, at most."""
        shortest = int(np.sort(self._shard_lengths)[: self._together].sum())
        windows = max(2, 1 + -(-positions // max(1, shortest)))
        return min(len(self._shard_lengths), windows * self._together)

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            count = len(self._shard_lengths)
            order = permutation(count, self.identity, "shards", number) if self.shuffle else np.arange(count)
            windows = [order[first : first + self._together] for first in range(0, count, self._together)]
            ends = np.cumsum([self._shard_lengths[window].sum() for window in windows])
            remember(self._epochs, number, _Epoch(windows, ends), WINDOWS_KEPT)
        return self._epochs[number]

    def _window(self, epoch: int, number: int) -> _Window:
        if (epoch, number) not in self._windows:
            shards = self._epoch(epoch).shards[number]
            lengths = [self._cell_lengths(int(shard)) for shard in shards]
            count = sum(map(len, lengths))
            order = permutation(count, self.identity, "cells", epoch, number) if self.shuffle else np.arange(count)
            shuffled = np.concatenate(lengths)[order]
            window = _Window(
                shards=np.repeat(shards, [len(each) for each in lengths])[order],
                cells=np.concatenate([np.arange(len(each)) for each in lengths])[order],
                lengths=shuffled,
                ends=np.cumsum(shuffled),
            )
            remember(self._windows, (epoch, number), window, WINDOWS_KEPT)
        return self._windows[epoch, number]


def remember(cache: OrderedDict, key: object, value: object, keep: int) -> None:
    """Add an entry to a cache of the newest ones."""
    cache[key] = value
    while len(cache) > keep:
        cache.popitem(last=False)
