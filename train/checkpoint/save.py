"""What a checkpoint is told to hold: its settings, the trainer's state, and that of random numbers and loss scale."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import text_hash
from data_pipeline.foundation.places import check_place
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.checkpoint.folder import TRAINER
from train.checkpoint.retention import Retention
from train.engine import Engine

LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What changes in DeepSpeed's loss scaler; the rest are its settings."""


@dataclass
class CheckpointConfig:
    """When checkpoints are written, how, and which stay.

    Args:
        every: steps between two; 0 writes only where the run ends or is stopped.
        keep: how many of the newest stay; 0 keeps all.
        keep_every: checkpoints of steps that are a multiple of it stay for good; 0 is none.
        keep_best: how many with the lowest validation loss stay, of those whose step was validated.
        asynchronous: train on while a copy in host memory is written; it costs that much memory.
        upload: where each checkpoint is copied to as well, in a folder with the run's name: `s3://bucket/prefix`,
            `gs://…` or a path. `keep`, `keep_every` and `keep_best` hold there, too.
    """

    every: int = 100
    keep: int = 3
    keep_every: int = 0
    keep_best: int = 0
    asynchronous: bool = True
    upload: str | None = None

    @property
    def retention(self) -> Retention:
        return Retention(self.keep, self.keep_every, self.keep_best)


def check_checkpoints(config: CheckpointConfig, validated_every: int) -> None:
    """Refuse what can't work.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    for key in ("every", "keep", "keep_every", "keep_best"):
        if getattr(config, key) < 0:
            raise UserError(f"checkpoint.{key}={getattr(config, key)} must be at least 0")
    if config.keep_every and (not config.every or config.keep_every % config.every):
        raise UserError(
            f"checkpoint.keep_every={config.keep_every} must be a multiple of checkpoint.every={config.every}: "
            "there is no checkpoint of the steps between"
        )
    if config.keep_best and not (config.every and validated_every):
        raise UserError(
            f"checkpoint.keep_best={config.keep_best} needs checkpoint.every and validation.every: the best are those "
            "with the lowest validation loss at their step"
        )
    if config.keep_best and config.every % validated_every and validated_every % config.every:
        raise UserError(
            f"checkpoint.keep_best={config.keep_best}: checkpoint.every={config.every} and "
            f"validation.every={validated_every} rarely meet; make one a multiple of the other"
        )
    if config.upload is not None:
        check_place(config.upload)


@dataclass(frozen=True)
class TrainerState:
    """All that a run needs to go on, beside the tensors.

    Args:
        step: steps done.
        sequences: sequences consumed; the cursor into the data.
        tokens: target tokens read, those of skipped steps among them.
        optimizer_steps: updates made, fewer than `step` where some were skipped.
        loss_scaler: state of fp16's loss scale.
        lineage: the run, its dataset and its configuration, by name and fingerprint.
        lost: bad files of the dataset whose shards are left out.
        validation_loss: of this very step, if it was validated.
        guard: what the guard against bad numbers remembers.
    """

    step: int
    sequences: int
    tokens: int
    optimizer_steps: int
    loss_scaler: dict[str, float] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    validation_loss: float | None = None
    guard: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointContext:
    """What doesn't change from one checkpoint of a run to the next."""

    folder: Path
    tokenizer: Tokenizer
    model: dict[str, Any]
    dataset_fingerprint: str
    configuration_fingerprint: str


def loss_scaler_of(engine: Engine) -> dict[str, float]:
    """Return the state of fp16's dynamic loss scale, or nothing at other precisions."""
    if not engine.deepspeed.fp16_enabled():
        return {}
    scaler = vars(_loss_scaler(engine))
    return {name: scaler[name] for name in LOSS_SCALER if name in scaler}


def restore_loss_scaler(engine: Engine, state: dict[str, float]) -> None:
    """Set fp16's dynamic loss scale; a checkpoint of another precision has none, and the scale starts anew.

    Raises:
        Failure: something else than its state is to be set.
    """
    for name, value in state.items():
        if name not in LOSS_SCALER or type(value) not in (int, float):
            raise Failure(f"the checkpoint's {TRAINER} sets {name}={value!r}, which is no state of fp16's loss scale")
    if engine.deepspeed.fp16_enabled():
        vars(_loss_scaler(engine)).update(state)


def _loss_scaler(engine: Engine) -> Any:
    return engine.deepspeed.optimizer.loss_scaler


def seed_random_state(seed: int, rank: int) -> None:
    """Start every random number generator of this process from the run's seed, differently on each rank."""
    number = int(text_hash(f"{seed} rank {rank}")[:8], 16)
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number)


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of every random number generator of this process, as tensors."""
    numpy_state: Any = numpy.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(random.getstate()[1], dtype=torch.int64),
        "numpy": torch.tensor([*map(int, numpy_state[1]), int(numpy_state[2])], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Set every random number generator of this process."""
    torch.set_rng_state(state["torch"])
    random.setstate((3, tuple(state["python"].tolist()), None))
    *keys, position = state["numpy"].tolist()
    numpy.random.set_state(("MT19937", numpy.array(keys, dtype=numpy.uint32), position, 0, 0.0))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
