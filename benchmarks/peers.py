"""The same tokens as other loaders want them, and their ways of giving batches of 8 × T int64. For comparison alone.

A peer that isn't installed is left out: `pip install mosaicml-streaming litdata`.
"""

from __future__ import annotations

import importlib.machinery
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Batches = Iterator[torch.Tensor]


def plain_webdataset(folder: Path, documents: list[NDArray], length: int, sequences: int) -> Batches:
    """A document a sample, as most people write it, shuffled in a buffer and packed to rows."""
    import webdataset

    path = folder / "documents.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number, document in enumerate(documents):
            writer.write({"__key__": f"{number:08d}", "npy": document})

    def rows(samples: Iterator[tuple[NDArray]]) -> Iterator[NDArray]:
        line = np.empty(0, documents[0].dtype)
        for (tokens,) in samples:
            line = np.concatenate((line, tokens))
            while len(line) > length:
                yield line[: length + 1].astype(np.int64)
                line = line[length:]

    dataset = webdataset.WebDataset(str(path), shardshuffle=False).shuffle(1000, seed=0).decode().to_tuple("npy")
    while True:
        for together in _batched(rows(iter(dataset)), sequences):
            yield torch.from_numpy(np.stack(together))


def mosaicml_streaming(folder: Path, documents: list[NDArray], length: int, sequences: int) -> Batches:
    """A row of T + 1 tokens a sample, as its authors' own examples have it."""
    _without_torchvision()
    from streaming import MDSWriter, StreamingDataset

    target = folder / "mds"
    with MDSWriter(out=str(target), columns={"tokens": "bytes"}) as writer:
        for row in _rows(documents, length):
            writer.write({"tokens": row.tobytes()})
    dtype = documents[0].dtype
    dataset = StreamingDataset(local=str(target), shuffle=True, batch_size=sequences)
    while True:
        for samples in _batched(iter(dataset), sequences):
            rows = [np.frombuffer(sample["tokens"], dtype).astype(np.int64) for sample in samples]
            yield torch.from_numpy(np.stack(rows))


def litdata(folder: Path, documents: list[NDArray], length: int, sequences: int) -> Batches:
    """Its token format, which maps chunks of tokens into memory."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from litdata import StreamingDataset, TokensLoader
    from litdata.streaming.cache import Cache

    target = str(folder / "litdata")
    loader = TokensLoader(block_size=length + 1)
    cache = Cache(target, chunk_size=(length + 1) * 8192, item_loader=loader)
    for number, document in enumerate(documents):
        cache._add_item(number, torch.from_numpy(document.astype(np.int32)))
    cache.done()
    cache.merge()
    dataset = StreamingDataset(target, item_loader=TokensLoader(block_size=length + 1), shuffle=True)
    while True:
        for samples in _batched(iter(dataset), sequences):
            yield torch.stack(samples).long()


PEERS: dict[str, Callable[[Path, list[NDArray], int, int], Batches]] = {
    "plain webdataset": plain_webdataset,
    "mosaicml-streaming": mosaicml_streaming,
    "litdata": litdata,
}


def _rows(documents: list[NDArray], length: int) -> Iterator[NDArray]:
    line = np.concatenate(documents)
    for start in range(0, len(line) - length, length):
        yield line[start : start + length + 1]


def _batched(items: Iterator, count: int) -> Iterator[list]:
    while len(together := list(itertools.islice(items, count))) == count:
        yield together


def _without_torchvision() -> None:
    """Let `streaming` import what its image datasets need and its token datasets don't, where it isn't installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for attribute in ("VisionDataset", "CIFAR10", "to_tensor"):
            setattr(module, attribute, object)
        sys.modules[name] = module
