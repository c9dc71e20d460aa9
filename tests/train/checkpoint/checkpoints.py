"""Real checkpoints of two ranks and a model of a few numbers, without DeepSpeed and in no time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from data_pipeline.foundation.files import fresh_folder, json_bytes
from train.checkpoint.folder import MODEL, TOKENIZER, TRAINER, CheckpointManifest, checkpoint_name, publish_checkpoint
from train.checkpoint.part import Part
from train.checkpoint.save import TrainerState, random_state
from train.checkpoint.state_file import PieceRange

RANKS = 2
FILES = (
    "model.json",
    "random-00000.safetensors",
    "random-00001.safetensors",
    "state-00000-of-00002.safetensors",
    "state-00001-of-00002.safetensors",
    "tokenizer/tokenizer.json",
    "trainer.json",
)


def part(step: int, rank: int, loss: float | None = None) -> Part:
    """Return what a rank of two writes: its half of one parameter, and at rank 0 what all have in common."""
    kinds = ("master", "exp_avg", "exp_avg_sq")
    pieces = [
        (PieceRange("w", kind, 50 * rank, 50 * rank + 50, (2, 50)), torch.arange(50.0) + step + rank) for kind in kinds
    ]
    files = {f"random-{rank:05d}.safetensors": safetensors.torch.save(random_state())}
    if rank == 0:
        state = TrainerState(step, 8 * step, 100 * step, step, validation_loss=loss)
        files |= {TRAINER: json_bytes(asdict(state)), MODEL: json_bytes({"model": {"width": 50}})}
        files |= {f"{TOKENIZER}/tokenizer.json": json_bytes({"vocabulary": [*"abc"]})}
    return Part(f"state-{rank:05d}-of-{RANKS:05d}.safetensors", pieces, files)


def publish(folder: Path, step: int, loss: float | None = None) -> Path:
    """Publish a checkpoint as two ranks would."""
    final = folder / checkpoint_name(step)
    staged = fresh_folder(final.with_name(final.name + ".tmp"))
    entries = {}
    for rank in range(RANKS):
        entries |= part(step, rank, loss).write(staged)
    publish_checkpoint(staged, final, CheckpointManifest(1, step, RANKS, 1, "dataset", "configuration", entries))
    return final


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file; they are counted on and on."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
