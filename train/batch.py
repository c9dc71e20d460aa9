"""The arithmetic of a step's batch: B = micro × accumulation × ranks, settled before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.curriculum import RampConfig, Segment
from data_pipeline.foundation.errors import UserError


@dataclass
class BatchConfig:
    """How many sequences a step learns from.

    Args:
        sequences: B, of a step over all ranks.
        micro: sequences of one forward pass on one rank; None for all of the rank's share of the smallest step at once.
        ramp: of B at the beginning; None for the full batch from the first step on.
    """

    sequences: int = 32
    micro: int | None = None
    ramp: RampConfig | None = None


@dataclass(frozen=True)
class BatchPlan:
    """Batches that divide: `sequences = micro × accumulation × ranks`. Where a run has several, this is the largest."""

    sequences: int
    micro: int
    accumulation: int
    ranks: int


def plan_batches(config: BatchConfig, segments: Sequence[Segment], ranks: int) -> BatchPlan:
    """Check the batches of all segments of a run, and return the largest.

    Raises:
        UserError: one of them doesn't divide.
    """
    sizes = sorted({segment.sequences for segment in segments})
    micro = config.micro or sizes[0] // ranks or None
    return [plan_batch(BatchConfig(size, micro), ranks) for size in sizes][-1]


def plan_batch(config: BatchConfig, ranks: int) -> BatchPlan:
    """Derive the gradient accumulation.

    Raises:
        UserError: the batch doesn't divide; the message names the nearest that does.
    """
    if config.sequences < 1 or (config.micro is not None and config.micro < 1):
        raise UserError("batch.sequences and batch.micro must be at least 1")
    if config.sequences % ranks:
        low = config.sequences // ranks * ranks
        choices = " or ".join(str(value) for value in (low, low + ranks) if value)
        raise UserError(f"batch.sequences={config.sequences} does not divide by {ranks} ranks: use {choices}")
    share = config.sequences // ranks
    micro = config.micro or share
    if share % micro:
        divisors = ", ".join(str(value) for value in range(1, share + 1) if share % value == 0)
        raise UserError(
            f"batch.micro={micro} does not divide a rank's share of {share} sequences "
            f"(batch.sequences={config.sequences} over {ranks} ranks): use one of {divisors}"
        )
    return BatchPlan(config.sequences, micro, share // micro, ranks)
