"""Safetensors files written tensor by tensor, each read only when its turn comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.files import hashed_file, write_json
from train.exchange.weights import CHUNK, INDEX, SINGLE

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Shard:
    """One file and the shapes of its tensors, in their order."""

    name: str
    shapes: dict[str, tuple[int, ...]]


def plan_shards(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int) -> list[Shard]:
    """Spread tensors over files of at most `shard_bytes`, in their order; a larger tensor has a file of its own."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = prod(shape) * dtype.itemsize
        if groups[-1] and filled + size > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    if len(groups) == 1:
        return [Shard(SINGLE, groups[0])]
    return [Shard(f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def write_shards(
    folder: Path,
    shards: list[Shard],
    dtype: torch.dtype,
    read: Callable[[str], Tensor],
    metadata: dict[str, str],
    progress: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    """Write all files, and their index where there are several.

    Args:
        read: gives a tensor by its name.
        metadata: texts for every file's header.
        progress: told the bytes written since it was last told.

    Returns:
        per file its bytes and xxh3-128.
    """
    entries = {}
    for shard in shards:
        with hashed_file(folder / shard.name) as file:
            file.write(_header(shard, dtype, metadata))
            for name in shard.shapes:
                flat = read(name).reshape(-1)
                for start in range(0, flat.numel(), CHUNK):
                    part = flat[start : start + CHUNK].to(dtype).contiguous()
                    progress(file.write(part.view(torch.uint8).numpy().data))
        entries[shard.name] = {"bytes": file.bytes, "xxh3_128": file.hexdigest}
    if len(shards) > 1:
        total = sum(prod(shape) * dtype.itemsize for shard in shards for shape in shard.shapes.values())
        files = {name: shard.name for shard in shards for name in shard.shapes}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    return entries


def _header(shard: Shard, dtype: torch.dtype, metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, shape in shard.shapes.items():
        end = at + prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
