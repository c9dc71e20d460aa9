"""The order of training as a function: which tokens are in sequence *i*, from nothing but numbers.

Depends on the dataset's fingerprint, the seed, the sequence length and *i*; never on ranks, workers, time or history.
So a cursor into the data is one integer and a run can go on at any other world size.

One epoch: the blocks are permuted and laid end to end, the line of tokens is cut into sequences of T tokens, and the
sequences are permuted within windows. Permuting blocks mixes far-apart text; permuting within windows keeps neighbours
from the same block out of the same batch; a reader needs only the few blocks under one window at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.foundation.files import text_hash

DEFAULT_WINDOW = 8192


class Span(NamedTuple):
    """Tokens `start` to `stop` of one block."""

    block: int
    start: int
    stop: int


class Order:
    """Maps the number of a sequence to the spans of tokens in it.

    Args:
        fingerprint: of the dataset.
        seed: of the run; another seed is another order.
        block_tokens: (blocks,) tokens of each block, in storage order.
        sequence_length: T, the tokens of a model's input. A sequence has T + 1 tokens; the last one is only a target,
            and is the first of the sequence that follows in the line, so each token is a target once.
        window: sequences that are permuted among themselves.
        shuffle: False for storage order, as validation wants it.

    Raises:
        ValueError: the blocks hold less than one sequence.
    """

    def __init__(
        self,
        fingerprint: str,
        seed: int,
        block_tokens: NDArray[np.int64],
        sequence_length: int,
        window: int = DEFAULT_WINDOW,
        shuffle: bool = True,
    ):
        self.sequence_length, self.window, self.shuffle = sequence_length, window, shuffle
        self._identity = f"{fingerprint} {seed}"
        self._block_tokens = np.asarray(block_tokens, dtype=np.int64)
        self.sequences_per_epoch = (int(self._block_tokens.sum()) - 1) // sequence_length
        if self.sequences_per_epoch < 1:
            raise ValueError(
                f"{int(self._block_tokens.sum())} tokens are less than one sequence of {sequence_length} + 1"
            )
        self._epochs: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def spans(self, sequence: int) -> list[Span]:
        """Return where the T + 1 tokens of a sequence lie, in reading order. O(log blocks)."""
        epoch, place = divmod(sequence, self.sequences_per_epoch)
        blocks, ends = self._epoch(epoch)
        start = self._place_in_line(epoch, place) * self.sequence_length
        stop = start + self.sequence_length + 1
        found = []
        at = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block = int(blocks[at])
            offset = start - (int(ends[at]) - int(self._block_tokens[block]))
            taken = min(stop - start, int(ends[at]) - start)
            if taken:
                found.append(Span(block, offset, offset + taken))
            start += taken
            at += 1
        return found

    def epoch_of(self, sequence: int) -> int:
        return sequence // self.sequences_per_epoch

    def _place_in_line(self, epoch: int, place: int) -> int:
        if not self.shuffle:
            return place
        number, within = divmod(place, self.window)
        size = min(self.window, self.sequences_per_epoch - number * self.window)
        return number * self.window + int(self._window(epoch, number, size)[within])

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's permutation of the blocks and the ends of the permuted blocks in the line of tokens."""
        if epoch not in self._epochs:
            count = len(self._block_tokens)
            blocks = self._permutation(count, "blocks", epoch) if self.shuffle else np.arange(count)
            _remember(self._epochs, epoch, (blocks, np.cumsum(self._block_tokens[blocks])))
        return self._epochs[epoch]

    def _window(self, epoch: int, number: int, size: int) -> NDArray[np.int64]:
        if (epoch, number) not in self._windows:
            _remember(self._windows, (epoch, number), self._permutation(size, "window", epoch, number))
        return self._windows[epoch, number]

    def _permutation(self, count: int, *names: str | int) -> NDArray[np.int64]:
        key = int(text_hash(" ".join((self._identity, *map(str, names)))), 16)
        return _permute(count, key)


def _permute(count: int, key: int) -> NDArray[np.int64]:
    """Return a permutation of 0 … count - 1 that is the same in every version of numpy.

    `Generator.permutation` may change between releases; raw Philox numbers are fixed by its definition, and sorting by
    them is a permutation (ties, one in 2⁶⁴, fall to the earlier).
    """
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable").astype(np.int64)


def _remember(cache: OrderedDict, key: object, value: object) -> None:
    """Keep the two newest entries: a batch may straddle a border, never two."""
    cache[key] = value
    while len(cache) > 2:
        cache.popitem(last=False)


def rank_share(step: int, batch: int, rank: int, ranks: int) -> range:
    """Return the numbers of the sequences that a rank trains on in a step: an equal run of the global batch."""
    share = batch // ranks
    first = step * batch + rank * share
    return range(first, first + share)
