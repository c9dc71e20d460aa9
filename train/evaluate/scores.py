"""A score with what a reader needs to judge it: how many it is of, how sure it is, and what guessing would reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number.

    Args:
        n: records that it is of.
        standard_error: of the value, over records; None for fewer than two.
        chance: what guessing reaches, in the same unit; None where that isn't defined.
        more: what belongs to it, such as a signature or a baseline.
    """

    name: str
    value: float
    n: int
    standard_error: float | None
    chance: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | fields.pop("more")


@dataclass(frozen=True)
class Column:
    """What each record gives to a score: the score is the sum of `values` over the sum of `weights`.

    Args:
        weights: 1 for each record makes it a mean.
        chances: what guessing gives for each; None where that isn't defined.
        transform: of the ratio, such as `math.exp` for a perplexity.
    """

    values: Sequence[float]
    weights: Sequence[float] | None = None
    chances: Sequence[float] | None = None
    transform: Callable[[float], float] | None = None
    slope: Callable[[float], float] | None = None

    def score(self, name: str, rows: Sequence[int]) -> Score:
        """Return the score of some records."""
        values = [self.values[row] for row in rows]
        weights = [1.0] * len(rows) if self.weights is None else [self.weights[row] for row in rows]
        value, error = ratio(values, weights)
        chance = None
        if self.chances is not None:
            chance = ratio([self.chances[row] for row in rows], weights)[0]
        if self.transform is not None and self.slope is not None:
            # The delta method: an error is stretched as the function is at the value.
            error = None if error is None else error * abs(self.slope(value))
            value, chance = self.transform(value), None if chance is None else self.transform(chance)
        return Score(name, value, len(rows), error, chance)


def ratio(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float | None]:
    """Return Σ values / Σ weights and its standard error over records.

    With weights of 1 that is the mean and the sample standard deviation / √n; else the error is that of a ratio
    estimator by the delta method (Cochran 1977, Sampling Techniques, 6.3).
    """
    n, total = len(values), math.fsum(weights)
    if not total:
        return math.nan, None
    value = math.fsum(values) / total
    if n < 2:
        return value, None
    squares = math.fsum((v - value * w) ** 2 for v, w in zip(values, weights))
    return value, math.sqrt(n / (n - 1) * squares) / total


@dataclass(frozen=True)
class Outcome:
    """What a kind of task finds on records: columns that become scores, of all and of groups, and scores of its own.

    Args:
        details: a line for each record, with what was asked and what came.
    """

    columns: dict[str, Column]
    details: list[dict[str, Any]]
    scores: list[Score] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
