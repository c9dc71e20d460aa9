"""Timing two ways of doing the same work in turn, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Units of work per second: ours, the other's, and the ratio round by round."""

    ours: list[float]
    other: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.other))

    def line(self, name: str, unit: str, other: str) -> str:
        ratios = [a / b for a, b in zip(self.ours, self.other)]
        return (
            f"{name:<34} ours {statistics.median(self.ours):>13,.0f}  {other} {statistics.median(self.other):>13,.0f} "
            f"{unit}  ratio {self.ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def compare(ours: Callable[[], int], other: Callable[[], int], rounds: int) -> Comparison:
    """Run both in turn, once to warm up and `rounds` times counted; each returns the units of work it did."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for work, results in zip((ours, other), times):
            started = time.perf_counter()
            units = work()
            if number:
                results.append(units / (time.perf_counter() - started))
    return Comparison(*times)
