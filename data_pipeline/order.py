"""The order of training as a function: which tokens are in sequence *i*, from nothing but numbers.

Depends on the dataset's fingerprint, the seed, the mixture, lengths and batch sizes planned for the run, and *i*; never
on ranks, workers, time or history. So a cursor into the data is one integer, finding one's place again takes no longer
late in a run than early, and a run can go on at any other world size.

A number goes through four steps, each a closed form:

    sequence i ──segment──▶ (T, mixture, i') ──mixture──▶ (source, j) ──window──▶ j' ──line──▶ shard, cell, offset

Along its source's line, sequences are permuted within windows, so that neighbours from one long document fall into
different batches. A window never reaches over the end of an epoch or of a segment: whoever has seen an epoch of a
source has seen each of its sequences once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.curriculum import Segment, Steps
from data_pipeline.line import Line, remember
from data_pipeline.mixture import Mixture
from data_pipeline.permutation import permutation
from data_pipeline.pieces import Numbers, alike

DEFAULT_WINDOW = 8192
WINDOWS_KEPT = 256
"""A chunk of sequences may touch two windows of each source."""


@dataclass(frozen=True)
class Located:
    """Where the sequences of one length lie on the lines of their sources.

    Args:
        length: T.
        sources, positions: (sequences,) which line, and where on it.
    """

    length: int
    sources: Numbers
    positions: Numbers


@dataclass(frozen=True)
class _Stretch:
    """A source's part in a segment: so many sequences from a position of its line on; without end where None."""

    position: int
    sequences: int | None


class Order:
    """Maps the number of a sequence to places on the lines of the sources.

    Args:
        identity: of dataset and seed.
        lines: of the sources.
        segments: of the run.
        mixtures: of the stages.
        window: sequences that are permuted among themselves.
        shuffle: False for the order of the lines themselves.
        packed: lines are measured in packed rows, of which a sequence is one, not in tokens, of which it takes T.
    """

    def __init__(
        self,
        identity: str,
        lines: Sequence[Line],
        segments: Sequence[Segment],
        mixtures: Sequence[Mixture],
        window: int = DEFAULT_WINDOW,
        shuffle: bool = True,
        packed: bool = False,
    ):
        self.lines, self.steps, self.window, self.shuffle, self.packed = lines, Steps(segments), window, shuffle, packed
        self._identity, self._mixtures = identity, mixtures
        self._first_sequences = np.array([segment.first_sequence for segment in segments])
        self._stretches = list(self._plan())
        self._permutations: OrderedDict[tuple[int, ...], Numbers] = OrderedDict()

    def consumed(self, step: int) -> list[int]:
        """Return how far along each line a run is before a step, in what the line is measured in."""
        number, counts = self._counts(step)
        stride = self._stride(self.steps.segments[number])
        return [stretch.position + count * stride for stretch, count in zip(self._stretches[number], counts)]

    def reached(self, step: int) -> list[int]:
        """Return up to where each line may have been read before a step: the last window, begun, counts whole."""
        number, counts = self._counts(step)
        stride = self._stride(self.steps.segments[number])
        return [
            stretch.position + (self._window(number, source, count - 1)[1] if count else 0) * stride
            for source, (stretch, count) in enumerate(zip(self._stretches[number], counts))
        ]

    def _counts(self, step: int) -> tuple[int, list[int]]:
        """Return the number of a step's segment, and how many sequences of each source it has had before the step."""
        segment = self.steps.segment(step)
        counts = self._mixtures[segment.stage].counts((step - segment.first_step) * segment.sequences)
        return self.steps.segments.index(segment), counts

    def reach(self, numbers: Numbers) -> Iterator[tuple[int, int, int]]:
        """Yield source, first and last position of what is read together with sequences: their windows."""
        for number, chosen in self._by_segment(numbers):
            sources, within = self._divide(number, numbers[chosen])
            stride = self._stride(self.steps.segments[number])
            for source, mine in alike(sources):
                first, _ = self._window(number, source, int(within[mine].min()))
                _, stop = self._window(number, source, int(within[mine].max()))
                start = self._stretches[number][source].position
                # A sequence of T tokens takes one more, for its last target.
                yield source, start + first * stride, start + stop * stride - int(self.packed)

    @property
    def longest_window(self) -> int:
        """Of sequences, in what lines are measured in."""
        return (self.window if self.shuffle else 1) * max(map(self._stride, self.steps.segments))

    def locate(self, numbers: Numbers) -> Iterator[tuple[Numbers | slice, Located]]:
        """Yield where sequences lie, those of each segment together, with their indexes in `numbers`."""
        for number, chosen in self._by_segment(numbers):
            yield chosen, self._locate_in_segment(number, numbers[chosen])

    def _by_segment(self, numbers: Numbers) -> Iterator[tuple[int, Numbers | slice]]:
        """Yield the numbers of segments, each with the indexes in `numbers` of its sequences."""
        return alike(np.searchsorted(self._first_sequences, numbers, side="right") - 1)

    def _divide(self, number: int, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Return the sources of a segment's sequences, and which of their source's in the segment they are."""
        segment = self.steps.segments[number]
        return self._mixtures[segment.stage].divide(numbers - segment.first_sequence)

    def _locate_in_segment(self, number: int, numbers: Numbers) -> Located:
        segment = self.steps.segments[number]
        sources, within = self._divide(number, numbers)
        positions = np.empty(len(numbers), np.int64)
        for source, mine in alike(sources):
            shuffled = self._shuffled(number, source, within[mine]) if self.shuffle else within[mine]
            positions[mine] = self._stretches[number][source].position + shuffled * self._stride(segment)
        return Located(segment.length, sources, positions)

    def _shuffled(self, number: int, source: int, within: Numbers) -> Numbers:
        """Permute the numbers of a source's sequences in a segment, within their windows."""
        stretch, stride = self._stretches[number][source], self._stride(self.steps.segments[number])
        length = self.lines[source].length
        shuffled = np.empty_like(within)
        for epoch, mine in alike((stretch.position + within * stride) // length):
            first, stop = self._in_epoch(number, source, epoch)
            in_epoch = within[mine] - first
            for window, some in alike(in_epoch // self.window):
                begin = window * self.window
                size = min(self.window, stop - first - begin)
                order = self._permutation(size, number, source, epoch, window)
                rows = some if isinstance(mine, slice) else mine[some]
                shuffled[rows] = first + begin + order[in_epoch[some] - begin]
        return shuffled

    def _in_epoch(self, number: int, source: int, epoch: int) -> tuple[int, int]:
        """Return which of a source's sequences in a segment begin in an epoch: from one up to another."""
        stretch, stride = self._stretches[number][source], self._stride(self.steps.segments[number])
        length = self.lines[source].length
        first = max(0, -(-(epoch * length - stretch.position) // stride))
        stop = -(-((epoch + 1) * length - stretch.position) // stride)
        return first, stop if stretch.sequences is None else min(stop, stretch.sequences)

    def _window(self, number: int, source: int, within: int) -> tuple[int, int]:
        """Return the window of a source's sequence in a segment: from one sequence up to another."""
        if not self.shuffle:
            return within, within + 1
        position = self._stretches[number][source].position + within * self._stride(self.steps.segments[number])
        first, stop = self._in_epoch(number, source, position // self.lines[source].length)
        begin = within - (within - first) % self.window
        return begin, min(begin + self.window, stop)

    def _permutation(self, size: int, *key: int) -> Numbers:
        if key not in self._permutations:
            remember(self._permutations, key, permutation(size, self._identity, "window", *key), WINDOWS_KEPT)
        return self._permutations[key]

    def _plan(self) -> Iterator[list[_Stretch]]:
        """Yield the stretches of all sources, segment by segment."""
        positions = [0] * len(self.lines)
        for segment in self.steps.segments:
            if segment.steps is None:
                yield [_Stretch(position, None) for position in positions]
                return
            counts = self._mixtures[segment.stage].counts(segment.steps * segment.sequences)
            yield [_Stretch(position, count) for position, count in zip(positions, counts)]
            positions = [position + count * self._stride(segment) for position, count in zip(positions, counts)]

    def _stride(self, segment: Segment) -> int:
        return 1 if self.packed else segment.length


def rank_share(numbers: range, rank: int, ranks: int) -> range:
    """Return the sequences of a step that a rank trains on: an equal run of the global batch."""
    share = len(numbers) // ranks
    return numbers[rank * share : (rank + 1) * share]
