"""Curves for drawing: a smoothed line, and thinning that keeps every peak and dip a screen could show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

COLUMNS = 500
"""Columns of the drawing; each keeps its lowest and highest point, so a curve has 1,000 points at most."""

Curve = tuple[list[float], list[float]]


def thin(x: Sequence[float], y: Sequence[float], columns: int = COLUMNS) -> Curve:
    """Keep, in order, the lowest and the highest point of each column, and both ends; all if there are few."""
    if len(x) <= 2 * columns:
        return list(x), list(y)
    low, width = x[0], (x[-1] - x[0]) / columns or 1.0
    kept = {0, len(x) - 1}
    begin = 0
    while begin < len(x):
        column = int((x[begin] - low) / width)
        end = begin + 1
        while end < len(x) and int((x[end] - low) / width) == column:
            end += 1
        inside = range(begin, end)
        kept.add(min(inside, key=y.__getitem__))
        kept.add(max(inside, key=y.__getitem__))
        begin = end
    order = sorted(kept)
    return [x[index] for index in order], [y[index] for index in order]


def every(x: Sequence[float], y: Sequence[float], points: int = COLUMNS) -> Curve:
    """Keep evenly spaced points and the last one: right for a line that is smooth already."""
    stride = max(1, len(x) // points)
    order = list(range(0, len(x), stride))
    if order and order[-1] != len(x) - 1:
        order.append(len(x) - 1)
    return [x[index] for index in order], [y[index] for index in order]


def smooth(y: Sequence[float], radius: int) -> list[float]:
    """Return the mean of each point's neighbours up to `radius` away, taken twice, so that it ends softly.

    The neighbourhood is as wide to the left as to the right, so the line doesn't lag behind its values, and it is
    narrower near the start, where a loss falls too fast to be averaged.
    """
    for _ in range(2):
        sums = [0.0, *accumulate(y)]
        y = [
            (sums[right] - sums[left]) / (right - left)
            for index in range(len(y))
            for reach in [min(radius, index // 6)]
            for left, right in [(max(0, index - reach), min(len(y), index + reach + 1))]
        ]
    return list(y)


def robust_range(values: Sequence[float], share: float = 0.005) -> tuple[float, float]:
    """Return the range without the lowest and highest `share` of the values: one outlier mustn't flatten the rest."""
    ordered = sorted(values)
    cut = int(len(ordered) * share)
    return ordered[cut], ordered[-1 - cut]


def significant(numbers: Sequence[float], digits: int = 5) -> list[float]:
    """Round for drawing: what a screen can't show needn't be in the file."""
    rounded = [float(f"{number:.{digits}g}") for number in numbers]
    return [int(number) if number == int(number) else number for number in rounded]
