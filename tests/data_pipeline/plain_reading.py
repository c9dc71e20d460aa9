"""What a dataset holds, read with plain webdataset and nothing of ours: the reference for all that maps and indexes."""

from __future__ import annotations

from pathlib import Path

import webdataset
from numpy.typing import NDArray


def plain_blocks(dataset: Path, split: str) -> list[tuple[NDArray, list[int]]]:
    """Return each block's tokens and document ends, in storage order."""
    urls = [str(path) for path in sorted(dataset.glob(f"{split}-*.tar"))]
    samples = webdataset.WebDataset(urls, shardshuffle=False).decode()
    return [(sample["tokens.npy"], sample["ends.npy"].tolist()) for sample in samples]
