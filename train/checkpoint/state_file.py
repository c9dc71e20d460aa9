"""One rank's part of a checkpoint: a safetensors file of pieces of flattened parameters, with their global ranges.

Written piece by piece and hashed on the way, so that saving needs no second copy of the state in memory. Any
safetensors reader opens it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import hashed_file

MASTER = "master"
"""The kind of state that holds a parameter's float32 values; other kinds are named as the optimizer names them."""


@dataclass(frozen=True)
class PieceRange:
    """Elements `start` to `stop` of a flattened parameter of the given shape.

    Args:
        columns: (first, behind the last) in which elements are counted, of a matrix that ranks split by columns.
    """

    parameter: str
    kind: str
    start: int
    stop: int
    shape: tuple[int, ...]
    columns: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        return f"{self.parameter}/{self.kind}"

    @property
    def elements(self) -> int:
        return self.stop - self.start

    def json(self) -> list[Any]:
        """Return what a file's metadata say of it; its columns only where it hasn't all."""
        return [self.start, self.stop, self.shape, *([self.columns] if self.columns else [])]


def state_header(pieces: Iterable[PieceRange]) -> bytes:
    """Return the head of a state file, which says where in it each piece lies."""
    pieces = list(pieces)
    header: dict[str, object] = {"__metadata__": {"ranges": json.dumps({piece.key: piece.json() for piece in pieces})}}
    at = 0
    for piece in pieces:
        size = 4 * piece.elements
        header[piece.key] = {"dtype": "F32", "shape": [piece.elements], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def state_file_bytes(pieces: Iterable[PieceRange]) -> int:
    """Return how long the state file of some pieces will be."""
    pieces = list(pieces)
    return len(state_header(pieces)) + sum(4 * piece.elements for piece in pieces)


def write_state_file(path: Path, pieces: Iterable[tuple[PieceRange, Tensor]]) -> tuple[int, str]:
    """Write pieces of float32 state; return the file's bytes and its xxh3-128."""
    entries = list(pieces)
    with hashed_file(path) as file:
        file.write(state_header(piece for piece, _ in entries))
        for piece, values in entries:
            values = values.detach().to("cpu", torch.float32).contiguous()
            if values.numel() != piece.elements:
                raise ValueError(f"{piece.key}: {values.numel()} values for a range of {piece.elements}")
            file.write(values.numpy().data.cast("B"))
    return file.bytes, file.hexdigest


class StateFile:
    """Reads ranges of pieces out of one state file.

    Raises:
        Failure: the file isn't one, or its header contradicts itself.
    """

    def __init__(self, path: Path):
        try:
            self._file = safetensors.safe_open(path, framework="pt")
            ranges = json.loads(self._file.metadata()["ranges"])
            self.pieces = [
                PieceRange(
                    *(key.rpartition("/")[0], key.rpartition("/")[2], start, stop, tuple(shape)),
                    columns=(int(columns[0][0]), int(columns[0][1])) if columns else None,
                )
                for key, (start, stop, shape, *columns) in ranges.items()
            ]
            for piece in self.pieces:
                there = self._file.get_slice(piece.key)
                if there.get_dtype() != "F32" or there.get_shape() != [piece.stop - piece.start]:
                    raise ValueError(f"{piece.key} is {there.get_dtype()} {there.get_shape()}, not what its range says")
                if piece.columns and not 0 <= piece.columns[0] < piece.columns[1] <= piece.shape[1]:
                    raise ValueError(f"{piece.key} is of columns {piece.columns}, which {piece.shape} hasn't")
        except (OSError, safetensors.SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise Failure(f"{path} is not a state file of a checkpoint: {' '.join(str(error).split())}") from None

    def read(self, piece: PieceRange, start: int, stop: int) -> Tensor:
        """Return elements `start` to `stop` of the parameter, or of its columns; they must lie within the piece."""
        return self._file.get_slice(piece.key)[start - piece.start : stop - piece.start]
