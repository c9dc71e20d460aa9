"""Writing a checkpoint: every rank its part beside the others, published by one rename after all agree."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import safetensors.torch
import torch

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import file_hash, fresh_folder, sync_folder, text_hash, write_json
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.checkpoint.folder import (
    FORMAT_VERSION,
    MODEL,
    TOKENIZER,
    TRAINER,
    CheckpointManifest,
    checkpoint_name,
    publish_checkpoint,
)
from train.checkpoint.pieces import owned_pieces, state_of
from train.checkpoint.state_file import write_state_file
from train.engine import Engine


@dataclass
class CheckpointConfig:
    """When checkpoints are written and how many stay.

    Args:
        every: steps between two; 0 writes only where the run ends or is stopped.
        keep: how many of the newest stay; 0 keeps all.
    """

    every: int = 100
    keep: int = 3


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
        guard: what the guard against bad numbers remembers.
    """

    step: int
    sequences: int
    tokens: int
    optimizer_steps: int
    loss_scaler: dict[str, float] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    guard: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointContext:
    """What doesn't change from one checkpoint of a run to the next."""

    folder: Path
    tokenizer: Tokenizer
    model: dict[str, Any]
    dataset_fingerprint: str
    configuration_fingerprint: str


def save_checkpoint(engine: Engine, state: TrainerState, context: CheckpointContext) -> Path:
    """Write and publish a checkpoint of the present state. Every rank calls it; all return or all raise.

    Returns:
        the published folder.

    Raises:
        Failure: some rank could not write; nothing is published and earlier checkpoints are as they were.
    """
    world = engine.world
    final = context.folder / checkpoint_name(state.step)
    staged = final.with_name(final.name + ".tmp")
    files: dict[str, dict[str, Any]] = {}
    problem = None
    if world.is_main:
        try:
            files |= _write_shared(staged, state, context)
        except OSError as error:
            problem = f"rank 0: {error}"
    if problem := world.from_main(problem):
        raise _not_saved(staged, problem, world.is_main)
    try:
        files |= _write_rank(engine, staged)
    except OSError as error:
        problem = f"rank {world.rank}: {error}"
    parts = world.gather((files, problem))
    if problems := [problem for _, problem in parts if problem]:
        raise _not_saved(staged, "; ".join(problems), world.is_main)
    if world.is_main:
        manifest = CheckpointManifest(
            format_version=FORMAT_VERSION,
            step=state.step,
            world_size=world.size,
            zero_stage=engine.stage,
            dataset_fingerprint=context.dataset_fingerprint,
            configuration_fingerprint=context.configuration_fingerprint,
            files={name: entry for part, _ in parts for name, entry in part.items()},
        )
        try:
            publish_checkpoint(staged, final, manifest)
        except OSError as error:
            problem = f"rank 0: {error}"
    if problem := world.from_main(problem):
        raise _not_saved(staged, problem, world.is_main)
    return final


def loss_scaler_of(engine: Engine) -> dict[str, float]:
    """Return the state of fp16's dynamic loss scale, or nothing at other precisions."""
    if not engine.deepspeed.fp16_enabled():
        return {}
    return {name: value for name, value in vars(_loss_scaler(engine)).items() if isinstance(value, int | float)}


def restore_loss_scaler(engine: Engine, state: dict[str, float]) -> None:
    """Set fp16's dynamic loss scale; a checkpoint of another precision has none, and the scale starts anew."""
    if engine.deepspeed.fp16_enabled():
        vars(_loss_scaler(engine)).update(state)


def _loss_scaler(engine: Engine) -> Any:
    return engine.deepspeed.optimizer.loss_scaler


def _write_shared(staged: Path, state: TrainerState, context: CheckpointContext) -> dict[str, dict[str, Any]]:
    """Write what all ranks have in common into a new staged folder."""
    fresh_folder(staged)
    write_json(staged / TRAINER, asdict(state))
    write_json(staged / MODEL, context.model)
    context.tokenizer.save(staged / TOKENIZER)
    sync_folder(staged / TOKENIZER)
    paths = [path for path in staged.rglob("*") if path.is_file()]
    return {str(path.relative_to(staged)): _entry(path.stat().st_size, file_hash(path)) for path in paths}


def _write_rank(engine: Engine, staged: Path) -> dict[str, dict[str, Any]]:
    """Write this rank's pieces of state and its random state."""
    rank, ranks = engine.world.rank, engine.world.size
    state_name, random_name = f"state-{rank:05d}-of-{ranks:05d}.safetensors", f"random-{rank:05d}.safetensors"
    size, digest = write_state_file(staged / state_name, state_of(engine, owned_pieces(engine)))
    safetensors.torch.save_file(random_state(), staged / random_name)
    path = staged / random_name
    return {state_name: _entry(size, digest), random_name: _entry(path.stat().st_size, file_hash(path))}


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


def _entry(size: int, digest: str) -> dict[str, Any]:
    return {"bytes": size, "xxh3_128": digest}


def _not_saved(staged: Path, problem: str, is_main: bool) -> Failure:
    if is_main:
        shutil.rmtree(staged, ignore_errors=True)
    return Failure(f"checkpoint {staged.stem} could not be saved ({problem}); earlier checkpoints are untouched")
