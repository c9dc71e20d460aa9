"""Which source each sequence is from, so that every stretch of them has the shares that were asked for.

The sequences of one source are spread as evenly as whole numbers allow, by the rule that draws a straight line on a
grid of pixels (Bresenham 1965): of the first x sequences, floor(x·share) are of the first source; the rest are divided
among the other sources in the same way. So the number of a sequence within its source is a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.pieces import Numbers

BITS = 24
"""Shares are multiples of 2⁻²⁴, and 2³⁹ sequences fit."""


class Mixture:
    """Divides sequences among sources.

    Args:
        shares: of each source, 0 or more; only their proportions count.
    """

    def __init__(self, shares: Sequence[float]):
        left = np.cumsum(np.array(shares, np.float64)[::-1])[::-1]  # each source and those behind it
        if not left[0] > 0 or min(shares) < 0:
            raise ValueError(f"{list(shares)} are not shares of a whole")
        self.sources = len(shares)
        parts = [share / rest if rest > 0 else 0.0 for share, rest in zip(shares, left)]
        self._parts = [round(part * (1 << BITS)) for part in parts]
        self._parts[max(source for source in range(len(shares)) if shares[source] > 0)] = 1 << BITS

    def divide(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Return the source of each sequence, and its number among those of that source."""
        if self.sources == 1:
            return np.zeros(len(numbers), np.int64), numbers
        sources = np.full(len(numbers), -1, np.int64)
        rest = np.array(numbers, np.int64)
        for source, part in enumerate(self._parts):
            before = rest * part >> BITS
            mine = (sources < 0) & ((rest + 1) * part >> BITS > before)
            sources[mine] = source
            rest = np.where(mine, before, np.where(sources < 0, rest - before, rest))
        return sources, rest

    def counts(self, sequences: int) -> list[int]:
        """Return how many of the first so many sequences are from each source."""
        counts = []
        for part in self._parts:
            counts.append(sequences * part >> BITS)
            sequences -= counts[-1]
        return counts
