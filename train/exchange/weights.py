"""Where a model's weights can be read from, one tensor at a time: our checkpoints, folders of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from train.checkpoint.load import StateReader
from train.checkpoint.state_file import MASTER

CHUNK = 1 << 22
"""Elements that are read or converted at once: 16 MiB of float32."""
RENEWED = 1 << 28
"""Bytes that are read before files are opened anew: what was read of a mapped file counts as memory until then."""
DTYPES = ("F32", "F16", "BF16")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Weights(Protocol):
    """Tensors by the name that their file gives them."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor."""

    def read(self, name: str) -> Tensor:
        """Return one tensor, float32."""


class CheckpointWeights:
    """The master weights of a checkpoint of ours, or their average, whatever ZeRO stage and world size wrote it."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], average: bool = False):
        self.shapes = dict(shapes)
        self._folder, self._average, self._mapped = folder, average, 0
        self._reader = StateReader(folder, average=average)

    def read(self, name: str) -> Tensor:
        """Return one parameter, float32. Raises Failure: the checkpoint lacks part of it."""
        values = torch.empty(self.shapes[name])
        if self._mapped > RENEWED:
            self._reader, self._mapped = StateReader(self._folder, average=self._average), 0
        self._mapped += values.nbytes
        flat = values.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            part = flat[start : start + CHUNK]
            self._reader.fill(name, MASTER, tuple(self.shapes[name]), start, part)
        return values


class SafetensorsWeights:
    """The tensors of a Hugging Face folder, in one safetensors file or several with an index.

    Raises:
        UserError: the folder has none, only pickled weights, or its index names what it must not.
        Failure: a file is damaged or lacks what the index says is in it.
    """

    def __init__(self, folder: Path):
        self._folder, self._mapped = folder, 0
        self._files: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        for file, expected in _files_in(folder).items():
            self._open(file, expected)
        self.shapes = {name: tuple(self._slice(name).get_shape()) for name in self._names}
        for name in self.shapes:
            if (dtype := self._slice(name).get_dtype()) not in DTYPES:
                raise UserError(f"{folder / self._names[name]}: {name} is {dtype}; taken in are {', '.join(DTYPES)}")

    @property
    def files(self) -> list[str]:
        """The names of the files, in order."""
        return sorted(self._files)

    @property
    def lineage(self) -> dict[str, Any] | None:
        """The lineage that we wrote into the files, or None where others wrote them."""
        for file in self._files.values():
            try:
                found = json.loads((file.metadata() or {})["headrace"])
            except (KeyError, ValueError):
                return None
            return found if isinstance(found, dict) else None
        return None

    def read(self, name: str) -> Tensor:
        """Return one tensor, float32."""
        if self._mapped > RENEWED:
            self._files = {file: safetensors.safe_open(self._folder / file, framework="pt") for file in self._files}
            self._mapped = 0
        values = self._files[self._names[name]].get_tensor(name)
        self._mapped += values.nbytes
        return values.float()

    def _slice(self, name: str) -> Any:
        return self._files[self._names[name]].get_slice(name)

    def _open(self, file: str, expected: set[str] | None) -> None:
        try:
            opened = safetensors.safe_open(self._folder / file, framework="pt")
            names = set(opened.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise Failure(f"{self._folder / file} can't be read: {' '.join(str(error).split())}") from None
        if expected is not None and (wrong := sorted(names ^ expected)):
            raise Failure(f"{self._folder / INDEX} and {file} disagree on {', '.join(wrong[:5])}")
        self._files[file] = opened
        self._names |= dict.fromkeys(names, file)


def _files_in(folder: Path) -> dict[str, set[str] | None]:
    """Return the safetensors files of a folder, each with the names that its index says are in it."""
    if (folder / INDEX).is_file():
        return {file: names for file, names in _indexed(folder).items() if _inside(folder, file)}
    if (folder / SINGLE).is_file():
        return {SINGLE: None} if _inside(folder, SINGLE) else {}
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise UserError(
            f"{folder / pickled[0]} is a pickle, which can run code when it is read: save the model as safetensors"
        )
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}")


def _indexed(folder: Path) -> dict[str, set[str]]:
    try:
        by_name = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files: dict[str, set[str]] = {}
        for name, file in by_name.items():
            files.setdefault(str(file), set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{folder / INDEX} is damaged: {error}") from None
    for file in files:
        if not re.fullmatch(r"\w[\w.-]*\.safetensors", file, re.ASCII):
            raise UserError(f"{folder / INDEX} names {file!r}, which is no safetensors file in its folder")
    return files


def _inside(folder: Path, file: str) -> bool:
    """Return True. Raises UserError where a file is a link that leads out of its folder."""
    # Hugging Face's cache keeps contents in `blobs`, and in `snapshots/REVISION` links to them.
    allowed = [folder.resolve(), folder.resolve().parent.parent / "blobs"]
    if not any((folder / file).resolve().is_relative_to(place) for place in allowed):
        raise UserError(f"{folder / file} is a link that leads out of the folder")
    return True
