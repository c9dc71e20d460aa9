"""How many rows each group of each shard packs into: counted once for a dataset and a length, then kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash

from data_pipeline.foundation.cache import cache_folder
from data_pipeline.foundation.files import whole_file
from data_pipeline.foundation.progress import Task
from data_pipeline.packing import count_rows
from data_pipeline.pieces import Numbers
from data_pipeline.store import Store

DIGEST_BYTES = 16


def rows_of_shards(store: Store, fingerprint: str, split: str, length: int, single: bool = False) -> list[Numbers]:
    """Return the rows of the groups of all shards of a split.

    Args:
        fingerprint: of the dataset.
        length: T.
        single: each document has a row to itself.
    """
    path = cache_folder() / "packed" / f"{fingerprint}-{split}-{length}{'-single' if single else ''}"
    kept = _kept(path, len(store.shards))
    if kept is not None:
        return kept
    with Task("counting packed rows", len(store.shards), "shards") as task:
        rows = []
        for shard in range(len(store.shards)):
            rows.append(count_rows(store.index(shard), length, single))
            task.advance()
    _keep(path, rows)
    return rows


def _kept(path: Path, shards: int) -> list[Numbers] | None:
    """Return what was kept, if every bit is as it was written: a run's order depends on it."""
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, arrays = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if digest != xxhash.xxh3_128_digest(arrays):
        return None
    kept = load(arrays)
    return np.split(kept["rows"], np.cumsum(kept["groups"])[:-1]) if len(kept["groups"]) == shards else None


def _keep(path: Path, rows: list[Numbers]) -> None:
    from safetensors.numpy import save

    arrays = save({"groups": np.array([len(each) for each in rows]), "rows": np.concatenate(rows)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, durable=False) as file:
            file.write(xxhash.xxh3_128_digest(arrays) + arrays)
    except OSError:
        pass  # it only saves time the next time
