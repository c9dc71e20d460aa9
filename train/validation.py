"""Loss on held-out text while a run trains, shared out over the ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.loader import IGNORED, Batch, batch_of_rows, read_steps
from data_pipeline.sequences import SequenceSource
from train.engine import Engine
from train.objective import Objective


@dataclass
class ValidationConfig:
    """When and on how much held-out text the loss is measured.

    Args:
        every: steps between two measurements; 0 measures at the end only.
        sequences: the first ones of the validation split; None for all.
        split: of the dataset.
    """

    every: int = 100
    sequences: int | None = 128
    split: str = "validation"


class Validation:
    """Measures the same sequences each time, in storage order.

    Args:
        token_bytes: (vocabulary,) UTF-8 bytes that each token stands for.
    """

    def __init__(self, config: ValidationConfig, source: SequenceSource, token_bytes: NDArray[np.int64]):
        self.source, self.token_bytes = source, torch.from_numpy(token_bytes)
        self.sequences = min(config.sequences or source.per_epoch, source.per_epoch)

    def measure(self, engine: Engine, objective: Objective) -> dict[str, Any]:
        """Return validation loss, perplexity and bits per byte, the same on every rank."""
        world, micro = engine.world, engine.batch.micro
        totals = torch.zeros(3, dtype=torch.float64)  # summed loss, targets, bytes
        with engine.evaluating():
            # Every rank makes the same number of calls: at ZeRO stage 3 each call gathers parameters from all.
            for first in range(0, self.sequences, micro * world.size):
                start = first + world.rank * micro
                batch = self._batch(range(start, min(start + micro, self.sequences)))
                totals[0] += engine.summed_loss(batch, objective)
                counted = batch.targets >= 0
                totals[1] += int(counted.sum())
                totals[2] += int(self.token_bytes[batch.targets[counted]].sum())
        self.source.rest()
        loss, targets, text_bytes = world.sum(totals.to(world.device)).tolist()
        mean = loss / targets
        return {
            "validation_loss": mean,
            "validation_perplexity": math.exp(min(mean, 700.0)),
            "validation_bits_per_byte": loss / math.log(2) / max(1.0, text_bytes),
        }

    def _batch(self, numbers: range) -> Batch:
        if numbers:
            return batch_of_rows(read_steps(self.source, [numbers], with_documents=True), 0, numbers)
        nothing = torch.zeros((1, self.source.length), dtype=torch.int64)
        return Batch(nothing, nothing + IGNORED, [[self.source.length]], numbers)
