"""What one rank writes of a checkpoint: known to the byte before anything is written, or copied to be written later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.files import hashed_file, sync_folder
from train.checkpoint.state_file import PieceRange, state_file_bytes, write_state_file

Pieces = list[tuple[PieceRange, Tensor]]


@dataclass(frozen=True)
class Part:
    """One rank's files.

    Args:
        state_name: of its state file.
        pieces: that the state file holds.
        files: content of the others, by name.
    """

    state_name: str
    pieces: Pieces
    files: dict[str, bytes]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file."""
        sizes = {name: len(content) for name, content in self.files.items()}
        return sizes | {self.state_name: state_file_bytes(piece for piece, _ in self.pieces)}

    def write(self, staged: Path) -> dict[str, dict[str, Any]]:
        """Write all files, each on disk before the next; return their bytes and hashes."""
        entries = {}
        for name, content in self.files.items():
            path = staged / name
            path.parent.mkdir(exist_ok=True)
            with hashed_file(path) as file:
                file.write(content)
            entries[name] = entry(file.bytes, file.hexdigest)
        for folder in {(staged / name).parent for name in self.files}:
            sync_folder(folder)
        return entries | {self.state_name: entry(*write_state_file(staged / self.state_name, self.pieces))}


def entry(size: int, digest: str) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    return {"bytes": size, "xxh3_128": digest}


class HostCopy:
    """Room in host memory for one copy of a rank's state, used again for every save.

    It is taken at once, and touched, so that the first save stands as short as the later ones and a machine that is
    too small says so at the start. On CUDA it is pinned, where that can be had: the copy then runs at the bus's speed.

    Args:
        elements: of float32 state.
    """

    def __init__(self, elements: int, device: torch.device):
        self._device = device
        try:
            self._room = torch.empty(elements, pin_memory=device.type == "cuda").zero_()
        except RuntimeError:
            self._room = torch.empty(elements).zero_()

    def of(self, part: Part) -> Part:
        """Return the part with its pieces copied; the earlier copy is gone."""
        return replace(part, pieces=list(self._copied(part.pieces)))

    def _copied(self, pieces: Pieces) -> Iterable[tuple[PieceRange, Tensor]]:
        at = 0
        for piece, values in pieces:
            target = self._room[at : at + piece.elements]
            target.copy_(values, non_blocking=True)
            at += piece.elements
            yield piece, target
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
