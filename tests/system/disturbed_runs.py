"""Trains one run after another in the same processes, while something disturbs what they compute or how fast.

Usage: torchrun --nproc-per-node N disturbed_runs.py RUNS.json RESULTS.json, a list of disturbances with what would be
typed after `train`. What disturbs sits in the objective; nothing in the product knows of it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import train.trainer
from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.foundation.errors import Failure, ToldElsewhere
from data_pipeline.loader import Batch
from train.checkpoint.folder import list_checkpoints
from train.checkpoint.part import Part
from train.distributed import World, join_world, launched_size, leave_world
from train.objective import Objective, build_objective
from train.preflight import prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.trainer import Trainer


@dataclass(frozen=True)
class Disturbance:
    """What happens to the sequences of a run.

    Args:
        nan: ranges of sequences, from one up to another, with a loss that is no number.
        shuffled: ranges of sequences whose tokens come in disorder.
        slow: ranges of sequences that take the last rank 30 ms longer.
        damaging: ranges of sequences, with the first of which the newest checkpoint loses a file.
        slow_disk: seconds that each rank's part of a checkpoint takes longer.
    """

    typed: list[str]
    nan: list[list[int]] = field(default_factory=list)
    shuffled: list[list[int]] = field(default_factory=list)
    slow: list[list[int]] = field(default_factory=list)
    damaging: list[list[int]] = field(default_factory=list)
    slow_disk: float = 0.0


class Disturbed:
    """An objective that does to a batch what a disturbance says."""

    def __init__(self, objective: Objective, disturbance: Disturbance, world: World, checkpoints: Path):
        self._objective, self._disturbance, self._world = objective, disturbance, world
        self._checkpoints = checkpoints

    def target_count(self, batch: Batch) -> int:
        return self._objective.target_count(batch)

    @property
    def is_likelihood(self) -> bool:
        return self._objective.is_likelihood

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self._objective.held_out(model, batch)

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if touches(self._disturbance.slow, batch) and self._world.rank == self._world.size - 1:
            time.sleep(0.03)
        if touches(self._disturbance.damaging, batch):
            (list_checkpoints(self._checkpoints)[-1] / "model.json").unlink(missing_ok=True)
        if touches(self._disturbance.shuffled, batch):
            order = torch.randperm(batch.tokens.numel(), generator=torch.Generator().manual_seed(1))
            tokens = batch.tokens.flatten()[order].view_as(batch.tokens)
            batch = replace(batch, tokens=tokens, targets=tokens.roll(1, 0))
        loss = self._objective.summed_loss(model, batch)
        return loss * float("nan") if touches(self._disturbance.nan, batch) else loss


def touches(ranges: list[list[int]], batch: Batch) -> bool:
    return any(first < batch.numbers.stop and batch.numbers.start < stop for first, stop in ranges)


def run(disturbance: Disturbance, world: World) -> tuple[int, str]:
    """Return how a run ended: its exit code and what it says."""
    composed = compose_configuration("train", disturbance.typed, TrainConfig)
    prepared = prepare_run(composed, launched_size())
    train.trainer.build_objective = lambda *settings: Disturbed(
        build_objective(*settings), disturbance, world, prepared.run.checkpoints
    )
    write = Part.write

    def slowly(*part: Any) -> Any:
        time.sleep(disturbance.slow_disk)
        return write(*part)

    try:
        with patch.object(Part, "write", slowly):
            return Trainer(composed, prepared, world).train(), ""
    except (Failure, ToldElsewhere) as error:
        return error.exit_code, str(error)


def main() -> None:
    register_schemas()
    disturbances = [Disturbance(**each) for each in json.loads(Path(sys.argv[1]).read_text())]
    world = join_world(compose_configuration("train", disturbances[0].typed, TrainConfig).value.cluster)
    ends: list[Any] = []
    try:
        for disturbance in disturbances:
            ends.append(run(disturbance, world))
    finally:
        leave_world()
    if world.is_main:
        Path(sys.argv[2]).write_text(json.dumps(ends))


if __name__ == "__main__":
    main()
