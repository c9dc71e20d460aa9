"""The weights of a compressed checkpoint: quantized matrices as codes and grids, all else as it was, in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure
from train.model.quantized import BITS, Grid, Packed, Scheme

PACKED = "packed.safetensors"
DTYPES = {8: (torch.int8, torch.float32), 4: (torch.uint8, torch.float16)}
"""Of codes, and of scales and smallest values."""


def packed_tensors(packed: Mapping[str, Packed], values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file by their names in it, and what its metadata say of how they are quantized.

    Args:
        packed: quantized matrices by parameter.
        values: other parameters, float32.
    """
    tensors = {f"{name}/values": value.detach().float().contiguous() for name, value in values.items()}
    for name, each in packed.items():
        tensors[f"{name}/codes"] = each.codes.contiguous()
        tensors[f"{name}/scale"] = each.grid.scale.contiguous()
        if each.grid.minimum is not None:
            tensors[f"{name}/minimum"] = each.grid.minimum.contiguous()
    schemes = {name: [each.grid.scheme.bits, each.grid.scheme.group] for name, each in packed.items()}
    return tensors, json.dumps(schemes, sort_keys=True)


def write_packed_file(path: Path, packed: Mapping[str, Packed], values: Mapping[str, Tensor]) -> None:
    """Write the file, and see it on disk."""
    from data_pipeline.foundation.files import whole_file

    tensors, schemes = packed_tensors(packed, values)
    with whole_file(path) as file:
        file.write(safetensors.torch.save(tensors, {"schemes": schemes}))


class PackedFile:
    """Reads the weights of a compressed checkpoint.

    Raises:
        Failure: the file isn't such a one, or contradicts itself.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = safetensors.safe_open(path, framework="pt")
            schemes = json.loads(self._file.metadata()["schemes"])
            self.schemes = {name: Scheme(int(bits), int(group)) for name, (bits, group) in schemes.items()}
            if any(scheme.bits not in BITS for scheme in self.schemes.values()):
                raise ValueError(f"it has weights of other than {' or '.join(map(str, BITS))} bits")
            self._names = set(self._file.keys())
            self.parameters = {name.rpartition("/")[0] for name in self._names}
        except (OSError, safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
            raise Failure(f"{path} is not a file of compressed weights: {' '.join(str(error).split())}") from None

    def packed(self, parameter: str) -> Packed:
        """Return a quantized matrix. Raises Failure: it isn't there, or its parts don't fit together."""
        scheme = self.schemes[parameter]
        codes, scale = self._tensor(f"{parameter}/codes"), self._tensor(f"{parameter}/scale")
        minimum = self._tensor(f"{parameter}/minimum") if scheme.bits == 4 else None
        found = Packed(Grid(scheme, scale, minimum), codes)
        try:
            expected = (found.shape[0], scheme.groups(found.shape[1]))
        except ValueError as error:
            raise Failure(f"{self._path}: {parameter} contradicts itself: {error}") from None
        grids = [scale] if minimum is None else [scale, minimum]
        if (codes.dtype, scale.dtype) != DTYPES[scheme.bits] or any(tuple(grid.shape) != expected for grid in grids):
            raise Failure(f"{self._path}: codes and scales of {parameter} don't fit together")
        return found

    def values(self, parameter: str) -> Tensor:
        """Return a parameter, restored where it is quantized, float32."""
        if parameter in self.schemes:
            return self.packed(parameter).values()
        return self._tensor(f"{parameter}/values").float()

    def _tensor(self, name: str) -> Tensor:
        if name not in self._names:
            raise Failure(f"{self._path} lacks {name}")
        return self._file.get_tensor(name)
