"""The stream against its limit: copying the same tokens, mapped and already in order, and casting them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.rounds import compare
from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.loader import Share, stream
from data_pipeline.manifest import load_manifest

SEQUENCES = 8


def loader_lines(dataset: Path, rounds: int = 7, length: int = 1024) -> Iterator[str]:
    """Compare batches of 8 × T int64 tokens, over about one epoch a round."""
    config = DataConfig(str(dataset), length)
    sequences = open_training(open_dataset(config), 0, plan_segments(length, SEQUENCES), 1)
    batches = iter(stream(sequences, Share(SEQUENCES), 0))
    steps = sequences.per_epoch // SEQUENCES
    mapped = np.memmap(next(iter(sorted(dataset.glob("train-*.tar")))), dtype=load_manifest(dataset).dtype, mode="r")
    places = len(mapped) // (SEQUENCES * length)

    def ours() -> int:
        for _ in range(steps):
            next(batches)
        return steps * SEQUENCES * length

    def copy_and_cast() -> int:
        for step in range(steps):
            start = step % places * SEQUENCES * length
            torch.from_numpy(mapped[start : start + SEQUENCES * length].astype(np.int64).reshape(SEQUENCES, length))
        return steps * SEQUENCES * length

    comparison = compare(ours, copy_and_cast, rounds)
    batches.close()
    yield comparison.line(f"loader, batches of {SEQUENCES} × {length}", "tokens/s", "copy and cast")
