"""Reading a checkpoint: the newest whole one, at any ZeRO stage and world size, each rank the ranges it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from train.checkpoint.folder import (
    MODEL,
    TRAINER,
    list_checkpoints,
    load_checkpoint_manifest,
    step_of,
    verify_checkpoint,
)
from train.checkpoint.packed_file import PACKED, PackedFile
from train.checkpoint.pieces import AVERAGE, frozen_pieces, local_pieces, moments_in, restore_optimizer, spread_masters
from train.checkpoint.save import TrainerState, restore_loss_scaler, restore_random_state
from train.checkpoint.state_file import MASTER, PieceRange, StateFile
from train.distributed import World
from train.engine import Engine
from train.model.adapters import LoraConfig
from train.model.quantized import quantized_transformer
from train.model.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies, if any, and the newer ones that don't with what is wrong with them.

    Args:
        fetched_from: the place that it was fetched from, if it wasn't here.
    """

    checkpoint: Path | None
    rejected: list[tuple[Path, list[str]]]
    fetched_from: str | None = None


def find_newest_whole(folder: Path, world: World, accepts: Callable[[int], bool] = lambda step: True) -> Found:
    """Look through a run's checkpoints from the newest on. Every rank calls it and gets the same answer.

    Args:
        accepts: whether a checkpoint of that step is one to look at.
    """
    rejected: list[tuple[Path, list[str]]] = []
    for checkpoint in reversed(world.from_main(list_checkpoints(folder))):
        if not accepts(step_of(checkpoint)):
            continue
        parts = world.gather(verify_checkpoint(checkpoint, world.rank, world.size))
        problems = sorted({problem for part in parts for problem in part})
        if not problems:
            return Found(checkpoint, rejected)
        rejected.append((checkpoint, problems))
    return Found(None, rejected)


def load_checkpoint(engine: Engine, folder: Path) -> TrainerState:
    """Bring an engine to the state in a checkpoint, whatever stage and world size wrote it.

    Raises:
        Failure: the checkpoint lacks part of a parameter.
        UserError: the checkpoint is of another model.
    """
    state = read_trainer_state(folder)
    reader = StateReader(folder, merges=False)
    moments = restore_optimizer(engine, state.optimizer_steps)
    for piece in local_pieces(engine):
        reader.fill(piece.parameter, MASTER, piece.shape, piece.start, piece.of(piece.master), piece.columns)
        for kind in moments_in(moments[id(piece.master)]):
            target = piece.of(moments[id(piece.master)][kind])
            reader.fill(piece.parameter, kind, piece.shape, piece.start, target, piece.columns)
    for piece in frozen_pieces(engine):
        reader.fill(piece.parameter, MASTER, piece.shape, piece.start, piece.of(piece.master))
    spread_masters(engine)
    restore_loss_scaler(engine, state.loss_scaler)
    random_path = folder / f"random-{engine.world.rank:05d}.safetensors"
    manifest = load_checkpoint_manifest(folder)
    if random_path.name in manifest.files and manifest.world_size == engine.world.size:
        restore_random_state(safetensors.torch.load_file(random_path))
    return state


def load_weights(engine: Engine, folder: Path) -> None:
    """Give an engine the weights of a checkpoint, of any stage and world size, and nothing else of it.

    Adapters of the checkpoint are merged; those of the engine stay as they are, and what they adapt gets the weights.

    Raises:
        Failure: the checkpoint lacks part of a parameter.
        UserError: the checkpoint is of another model.
    """
    reader = StateReader(folder)
    for piece in frozen_pieces(engine) or local_pieces(engine):
        reader.fill(piece.parameter, MASTER, piece.shape, piece.start, piece.of(piece.master), piece.columns)
    spread_masters(engine)


def read_trainer_state(folder: Path) -> TrainerState:
    """Return `trainer.json`. Raises Failure: it is damaged, or of another version of Headrace."""
    try:
        return TrainerState(**json.loads((folder / TRAINER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Failure(f"{folder / TRAINER} can't be used: {error}") from None


def read_model_description(folder: Path) -> dict[str, Any]:
    """Return `model.json`: the model's configuration under `model`, adapters under `lora`, how it was trained.

    Raises:
        Failure: it is damaged, or describes what is no model of ours.
    """
    try:
        description = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        TransformerConfig(**description["model"])
        lora = LoraConfig(**description.get("lora") or {})
        return {**description, "sequence_length": int(description["sequence_length"]), "lora": lora}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Failure(f"{folder / MODEL} can't be used: {error}") from None


def load_transformer(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, average: bool = False
) -> Transformer:
    """Build the model of a checkpoint with its master weights, adapters merged, for inference, without DeepSpeed.

    Quantized weights are restored.

    Args:
        average: take the average of the weights over training instead.

    Raises:
        Failure: the checkpoint is damaged or lacks part of a parameter.
        UserError: it has no average.
    """
    _require_whole(folder)
    config = TransformerConfig(**read_model_description(folder)["model"])
    reader = StateReader(folder, average=average)
    with device:
        model = Transformer(config).to(dtype)
    for name, parameter in model.named_parameters():
        reader.fill(name, MASTER, tuple(parameter.shape), 0, parameter.data.view(-1))
    return model.eval()


def load_for_inference(folder: Path, device: torch.device, average: bool = False) -> Transformer:
    """Build the model of a checkpoint as `load_transformer` does, but leave quantized weights as they are.

    Raises:
        Failure: the checkpoint is damaged or lacks part of a parameter.
        UserError: the average is asked for, and it has none.
    """
    if average or (packed := packed_file(folder)) is None:
        return load_transformer(folder, device, average=average)
    _require_whole(folder)
    config = TransformerConfig(**read_model_description(folder)["model"])
    return quantized_transformer(
        config,
        {name: packed.packed(name) for name in packed.schemes},
        {name: packed.values(name) for name in sorted(packed.parameters - packed.schemes.keys())},
        device,
    )


def packed_file(folder: Path) -> PackedFile | None:
    """Return the quantized weights of a checkpoint, if that is what it has."""
    return PackedFile(folder / PACKED) if PACKED in load_checkpoint_manifest(folder).files else None


def _require_whole(folder: Path) -> None:
    if problems := verify_checkpoint(folder):
        raise Failure(f"checkpoint {folder} is damaged: {'; '.join(problems)}")


class StateReader:
    """All pieces of a checkpoint, over all its state files; of a compressed one, quantized weights restored.

    Args:
        merges: give weights that adapters stand beside with what the adapters add to them.
        average: give averages for master weights, of all that was trained.

    Raises:
        UserError: there are no averages.
    """

    def __init__(self, folder: Path, merges: bool = True, average: bool = False):
        self._folder = folder
        # Those of the manifest, which have been verified; whatever else lies there isn't the checkpoint's.
        names = [name for name in load_checkpoint_manifest(folder).files if name.startswith("state-")]
        files = [StateFile(folder / name) for name in sorted(names) if (folder / name).exists()]
        self._packed = packed_file(folder)
        self._pieces: dict[str, list[tuple[Any, StateFile]]] = {}
        for file in files:
            for piece in file.pieces:
                self._pieces.setdefault(piece.key, []).append((piece, file))
        self._average = average
        if average and not any(key.endswith(f"/{AVERAGE}") for key in self._pieces):
            raise UserError(f"average=true: {folder} holds no average of its weights; train with ema.decay=0.999")
        adapted = merges and any(key.endswith(f"adapter.up/{MASTER}") for key in self._pieces)
        self._scale = read_model_description(folder)["lora"].scale if adapted else None

    def fill(
        self,
        parameter: str,
        kind: str,
        shape: tuple[int, ...],
        start: int,
        out: Tensor,
        columns: tuple[int, int] | None = None,
    ) -> None:
        """Read elements from `start` on of a flattened parameter's state into `out`, a flat view.

        Args:
            columns: (first, behind the last) in which elements are counted; all if None. Where they aren't stored like
                that, whole rows are read.
        """
        stored = (piece.columns for piece, _ in self._pieces.get(f"{parameter}/{kind}", []))
        if columns is not None and columns not in stored:
            stop, width = start + out.numel(), columns[1] - columns[0]
            above, below = start // width, -(-stop // width)
            rows = torch.empty(below - above, shape[1])
            self.fill(parameter, kind, shape, above * shape[1], rows.view(-1))
            out.copy_(rows[:, slice(*columns)].flatten()[start - above * width : stop - above * width])
            return
        adapter = parameter.removesuffix("weight") + "adapter"
        wanted = PieceRange(parameter, kind, start, start + out.numel(), shape, columns)
        if self._scale is None or kind != MASTER or f"{adapter}.up/{MASTER}" not in self._pieces:
            return self._fill(wanted, out)
        values = torch.empty(out.numel())
        self._fill(wanted, values)
        first, last = start // shape[1], -(-(start + out.numel()) // shape[1])
        change = self._whole(f"{adapter}.up")[first:last] @ self._whole(f"{adapter}.down")
        offset = start - first * shape[1]
        out.copy_(values.add_(change.flatten()[offset : offset + out.numel()], alpha=self._scale))

    def _whole(self, parameter: str) -> Tensor:
        shape = self._pieces[f"{parameter}/{MASTER}"][0][0].shape
        values = torch.empty(shape)
        self._fill(PieceRange(parameter, MASTER, 0, values.numel(), shape), values.view(-1))
        return values

    def _fill(self, wanted: PieceRange, out: Tensor) -> None:
        parameter, kind, shape = wanted.parameter, wanted.kind, wanted.shape
        if self._average and kind == MASTER and f"{parameter}/{AVERAGE}" in self._pieces:
            kind = AVERAGE
        if self._packed is not None and kind == MASTER and parameter in self._packed.parameters:
            values = self._packed.values(parameter)
            if tuple(values.shape) != tuple(shape):
                raise UserError(
                    f"{self._folder} is of another model: {parameter} is {tuple(values.shape)} there, {shape} here"
                )
            out.copy_(values.view(-1)[wanted.start : wanted.stop])
            return
        found, pieces = 0, self._pieces.get(f"{parameter}/{kind}", [])
        apart = sorted({piece.columns for piece, _ in pieces if piece.columns and piece.shape == shape})
        if apart and wanted.columns is None:
            above, below = wanted.start // shape[1], -(-wanted.stop // shape[1])
            rows = self._joined(parameter, kind, shape, above, below, apart)
            out.copy_(rows.view(-1)[wanted.start - above * shape[1] : wanted.stop - above * shape[1]])
            return
        for piece, file in pieces:
            if piece.shape != shape:
                raise UserError(f"{self._folder} is of another model: {parameter} is {piece.shape} there, {shape} here")
            if piece.columns != wanted.columns:
                continue
            low, high = max(wanted.start, piece.start), min(wanted.stop, piece.stop)
            if low < high:
                out[low - wanted.start : high - wanted.start].copy_(file.read(piece, low, high))
                found += high - low
        if found != out.numel():
            raise Failure(
                f"{self._folder} holds {found} of {out.numel()} elements of {parameter}/{kind} that are needed"
            )

    def _joined(
        self, parameter: str, kind: str, shape: tuple[int, ...], above: int, below: int, apart: list[tuple[int, int]]
    ) -> Tensor:
        """Return some rows of a matrix whose columns are stored apart."""
        rows, known = torch.empty(below - above, shape[1]), 0
        for first, last in apart:
            width = last - first
            part = torch.empty(below - above, width)
            columns = PieceRange(parameter, kind, above * width, below * width, shape, (first, last))
            self._fill(columns, part.view(-1))
            rows[:, first:last] = part
            known = last if first == known else -1
        if known != shape[1]:
            raise Failure(f"{self._folder} holds the columns {apart} of {shape[1]} of {parameter}/{kind}")
        return rows
