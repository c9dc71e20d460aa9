"""The stream against its limit, copying the same tokens, mapped and in order, and casting them; and against peers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import PEERS
from benchmarks.rounds import compare
from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.loader import Share, stream
from data_pipeline.manifest import load_manifest
from data_pipeline.storage.dataset_files import LocalFiles
from data_pipeline.store import Store

SEQUENCES = 8
PEER_TOKENS = 8_000_000


def loader_lines(dataset: Path, rounds: int = 7, length: int = 1024) -> Iterator[str]:
    """Compare batches of 8 × T int64 tokens, over about an epoch or twenty million tokens a round."""
    ours, steps = _ours(dataset, length)
    limit = _copy_and_cast(dataset, length, steps)
    yield compare(ours, limit, rounds).line(f"loader, {SEQUENCES} × {length}", "tokens/s", "copy and cast")
    store = Store(LocalFiles(dataset), load_manifest(dataset), "train")
    for name, peer in PEERS.items():
        with tempfile.TemporaryDirectory() as folder:
            documents, size = [], 0
            for document in store.documents():
                documents.append(np.array(document))
                size += len(document)
                if size >= PEER_TOKENS:
                    break
            try:
                batches = peer(Path(folder), documents, length, SEQUENCES)
                theirs = _taking(batches, min(steps, size // (SEQUENCES * length)) // 4, length)
                yield compare(ours, theirs, 3).line(f"loader, {SEQUENCES} × {length}", "tokens/s", name)
            except ImportError as error:
                yield f"loader: {name} is left out: {error}"


def _ours(dataset: Path, length: int) -> tuple[Callable[[], int], int]:
    sequences = open_training(open_dataset(DataConfig(str(dataset), length)), 0, plan_segments(length, SEQUENCES), 1)
    batches = iter(stream(sequences, Share(SEQUENCES), 0))
    steps = min(sequences.per_epoch, 20_000) // SEQUENCES

    def ours() -> int:
        for _ in range(steps):
            next(batches)
        return steps * SEQUENCES * length

    return ours, steps


def _copy_and_cast(dataset: Path, length: int, steps: int) -> Callable[[], int]:
    mapped = np.memmap(next(iter(sorted(dataset.glob("train-*.tar")))), dtype=load_manifest(dataset).dtype, mode="r")
    places = len(mapped) // (SEQUENCES * length)

    def copy_and_cast() -> int:
        for step in range(steps):
            start = step % places * SEQUENCES * length
            torch.from_numpy(mapped[start : start + SEQUENCES * length].astype(np.int64).reshape(SEQUENCES, length))
        return steps * SEQUENCES * length

    return copy_and_cast


def _taking(batches: Iterator[torch.Tensor], steps: int, length: int) -> Callable[[], int]:
    def take() -> int:
        for _ in range(steps):
            next(batches)
        return steps * SEQUENCES * length

    return take
