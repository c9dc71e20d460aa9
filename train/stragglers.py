"""Slow ranks: all wait for the slowest in every step, so one bad machine slows down the whole run, unseen.

How long a step takes is the same everywhere and says nothing. Compared is what each rank does before it waits for the
others: reading and the forward pass. At ZeRO stage 3 the forward pass gathers parameters, and a slow rank shows less.
The times travel in an all-reduce that each step makes anyway.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

WINDOW_STEPS = 32


class DeviceClock:
    """Adds up how long a device works in some part of the program; on a GPU without making the program wait."""

    def __init__(self, device: torch.device):
        self._device = device
        self._seconds = 0.0
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measuring(self) -> Iterator[None]:
        if self._device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            yield
            last.record()
            self._pairs.append((first, last))
        else:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started

    def take(self) -> float:
        """Return the seconds since the last call. What was measured must be over."""
        total = self._seconds + sum(first.elapsed_time(last) / 1000 for first, last in self._pairs)
        self._seconds, self._pairs = 0.0, []
        return total


@dataclass(frozen=True)
class Straggler:
    """A rank that takes `ratio` times as long as the others, in `seconds` of each step."""

    rank: int
    ratio: float
    seconds: float


class Stragglers:
    """Finds ranks that have become slow.

    Args:
        ratio: from which on a rank is slow; 0 finds none.
    """

    def __init__(self, ratio: float):
        self._ratio = ratio
        self._times: deque[Sequence[float]] = deque(maxlen=WINDOW_STEPS)
        self._steps = 0
        self._known: set[int] = set()

    def step(self, seconds: Sequence[float]) -> list[Straggler]:
        """Return who has become slow, once until that rank is fast again.

        Args:
            seconds: (ranks,) of the same work in one step.
        """
        if len(seconds) < 2 or not self._ratio:
            return []
        self._times.append(seconds)
        self._steps += 1
        if self._steps % WINDOW_STEPS:
            return []
        usual = [median(times) for times in zip(*self._times)]
        slow = []
        for rank, mine in enumerate(usual):
            others = median(usual[:rank] + usual[rank + 1 :])
            if mine > self._ratio * others > 0:
                slow.append(Straggler(rank, round(mine / others, 2), round(mine, 4)))
        found = [each for each in slow if each.rank not in self._known]
        self._known = {each.rank for each in slow}
        return found
