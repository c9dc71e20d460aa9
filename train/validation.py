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
        """Return the objective's figures, and of a likelihood perplexity and bits per byte, the same on every rank."""
        world, place, micro = engine.world, engine.place, engine.batch.micro
        summed: dict[str, float] = {}
        totals = torch.zeros(2, dtype=torch.float64)  # targets, bytes
        with engine.evaluating():
            # Every rank makes the same number of calls: at ZeRO stage 3 each call gathers parameters from all.
            for first in range(0, self.sequences, micro * place.readers):
                start = first + place.reader * micro
                batch = place.part(self._batch(range(start, min(start + micro, self.sequences))))
                for name, figure in engine.held_out(batch, objective).items():
                    summed[name] = summed.get(name, 0.0) + figure
                totals[0] += objective.target_count(batch)
                totals[1] += int(self.token_bytes[batch.targets[batch.targets >= 0]].sum())
        self.source.rest()
        told = torch.cat((totals, torch.tensor(list(summed.values()), dtype=torch.float64)))
        targets, text_bytes, *sums = world.sum(told.to(world.device)).tolist()
        figures = {f"validation_{name}": figure / targets for name, figure in zip(summed, sums, strict=True)}
        if objective.is_likelihood:
            loss = figures["validation_loss"]
            figures["validation_perplexity"] = math.exp(min(loss, 700.0))
            figures["validation_bits_per_byte"] = loss * targets / math.log(2) / max(1.0, text_bytes)
        return figures

    def _batch(self, numbers: range) -> Batch:
        if numbers:
            return batch_of_rows(read_steps(self.source, [numbers], with_documents=True), 0, numbers)
        nothing = torch.zeros((1, self.source.length), dtype=torch.int64)
        return Batch(nothing, nothing + IGNORED, [[self.source.length]], numbers)
