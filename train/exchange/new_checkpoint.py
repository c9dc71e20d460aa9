"""A checkpoint of our format that no run has written: step 0, weights alone, one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.files import file_hash, hashed_file, json_bytes, json_hash, sync_folder, whole_file
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.checkpoint.folder import (
    FORMAT_VERSION,
    MANIFEST,
    MODEL,
    TRAINER,
    CheckpointManifest,
    load_checkpoint_manifest,
    manifest_bytes,
)
from train.checkpoint.folder import TOKENIZER as TOKENIZER_FOLDER
from train.checkpoint.save import TrainerState
from train.checkpoint.state_file import MASTER, PieceRange, state_header
from train.exchange.architectures import shapes_of
from train.exchange.weights import CHUNK
from train.model.transformer import TransformerConfig

STATE = "state-00000-of-00001.safetensors"
WINDOW = 2048
"""Tokens that `evaluate` scores at once where no run has trained the model: a model's full length can be very long."""


def write_new_checkpoint(
    folder: Path,
    config: TransformerConfig,
    tokenizer: Tokenizer,
    read: Callable[[str], Tensor],
    lineage: dict[str, Any],
    progress: Callable[[int], None] = lambda written: None,
    described: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a checkpoint into an empty folder, one tensor at a time.

    Args:
        read: gives a parameter, float32, by its name.
        lineage: where the weights are from.
        progress: told the bytes of weights written since it was last told.
        described: what `model.json` says beside the model's shape.
    """

    def write(path: Path) -> None:
        _write_state(path, shapes_of(config), read, progress)

    checkpoint_around(folder, config, tokenizer, lineage, STATE, write, described)


def checkpoint_around(
    folder: Path,
    config: TransformerConfig,
    tokenizer: Tokenizer,
    lineage: dict[str, Any],
    weights: str,
    write_weights: Callable[[Path], None],
    described: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint into an empty folder, the weights by a function.

    Args:
        lineage: where the weights are from.
        weights: name of their file.
        write_weights: writes it.
        described: what `model.json` says beside the model's shape.
    """
    state = TrainerState(step=0, sequences=0, tokens=0, optimizer_steps=0, lineage=lineage)
    description = {"model": vars(config), "sequence_length": min(WINDOW, config.maximum_length), **(described or {})}
    files = {TRAINER: json_bytes(asdict(state)), MODEL: json_bytes(description)}
    files |= {f"{TOKENIZER_FOLDER}/{name}": content for name, content in tokenizer.files().items()}
    (folder / TOKENIZER_FOLDER).mkdir()
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)
    write_weights(folder / weights)
    sync_folder(folder / TOKENIZER_FOLDER)
    write_manifest(folder, [*files, weights], json_hash(description))


def add_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put more files into such a checkpoint, and into its manifest."""
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)
    manifest = load_checkpoint_manifest(folder)
    write_manifest(folder, [*manifest.files, *files], manifest.configuration_fingerprint)


def write_manifest(folder: Path, files: Sequence[str], configuration_fingerprint: str) -> None:
    """Write the manifest of a checkpoint that no run has written, of files that are there."""
    manifest = CheckpointManifest(
        format_version=FORMAT_VERSION,
        step=0,
        world_size=1,
        zero_stage=0,
        dataset_fingerprint="",
        configuration_fingerprint=configuration_fingerprint,
        files={name: {"bytes": (folder / name).stat().st_size, "xxh3_128": file_hash(folder / name)} for name in files},
    )
    with whole_file(folder / MANIFEST) as file:
        file.write(manifest_bytes(manifest))


def _write_state(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    progress: Callable[[int], None],
) -> None:
    pieces = [PieceRange(name, MASTER, 0, prod(shape), shape) for name, shape in shapes.items()]
    with hashed_file(path) as file:
        file.write(state_header(pieces))
        for piece in pieces:
            values = read(piece.parameter)
            if tuple(values.shape) != piece.shape:
                raise ValueError(f"{piece.parameter} is {tuple(values.shape)} instead of {piece.shape}")
            flat = values.to(torch.float32).reshape(-1)
            for start in range(0, flat.numel(), CHUNK):
                progress(file.write(flat[start : start + CHUNK].contiguous().numpy().data.cast("B")))
