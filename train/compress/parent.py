"""The model that is compressed: loaded, and traced to where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash
from train.checkpoint.folder import MANIFEST
from train.checkpoint.load import packed_file, read_model_description
from train.source import Loaded, load_source
from train.start import origin_of


@dataclass(frozen=True)
class Parent:
    """What is compressed.

    Args:
        origin: which model, by its hashes, and where it came from itself.
        description: of its checkpoint, `model.json`; of an export nothing.
    """

    loaded: Loaded
    origin: dict[str, Any]
    description: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Each parameter by its name, float32; one that is tied comes once."""
        return {name: parameter.detach() for name, parameter in self.loaded.model.named_parameters()}


def open_parent(source: Path, kind: str) -> Parent:
    """Load what is to be compressed.

    Args:
        kind: of the method.

    Raises:
        UserError: there is no such model, or it is compressed already.
        Failure: it is damaged.
    """
    loaded = load_source(source)
    folder = loaded.folder
    if not (folder / MANIFEST).exists():
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else [folder]
        return Parent(loaded, {"export": folder.name, "files": {path.name: file_hash(path) for path in files}}, {})
    description = read_model_description(folder)
    if packed_file(folder) is not None:
        raise UserError(f"source={source} is quantized already: compress the model that it was made of")
    if (pruned := description.get("pruning")) and kind in ("magnitude", "wanda"):
        raise UserError(
            f"source={source} is pruned already, by {pruned['kind']}: prune the model that it was made of, with a "
            "larger method.share"
        )
    return Parent(loaded, origin_of(folder), description)
