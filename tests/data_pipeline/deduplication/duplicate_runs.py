"""Ways to run tasks, and to write, search and read a corpus of several parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_pipeline.deduplication.duplicates import Duplicates, find_duplicates, read_duplicates
from data_pipeline.deduplication.search import Run
from data_pipeline.deduplication.signatures import DuplicatesConfig, write_signatures
from data_pipeline.deduplication.signed_parts import SignedPart
from data_pipeline.parallel import Workers

Item = TypeVar("Item")


def one_by_one(name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None:
    for item in items:
        task(item)


@dataclass
class Shuffled:
    """In an order of chance, and some of them twice."""

    chance: random.Random

    def __call__(self, name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None:
        for item in self.chance.sample([*items, *items[::2]], len(items) + len(items[::2])):
            task(item)


@dataclass
class InWorkers:
    workers: Workers

    def __call__(self, name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None:
        for _ in self.workers.map(task, items):
            pass


def write_parts(
    folder: Path, texts: Sequence[str], config: DuplicatesConfig, cuts: Sequence[int] = (), gap: int = 0
) -> list[SignedPart]:
    """Write the signatures of texts in parts, cut at some places; numbers have gaps between the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [0, *sorted(cuts), len(texts)]
    parts = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        name = f"{number:03d}"
        part = SignedPart(folder / f"{name}.signatures", folder / f"{name}.duplicates", start + number * gap)
        write_signatures(part.signatures, texts[start:stop], config)
        parts.append(part)
    return parts


def duplicates_of(parts: Sequence[SignedPart], config: DuplicatesConfig, run: Run = one_by_one) -> Duplicates:
    """Return the duplicates of all parts in one."""
    find_duplicates(parts, parts[0].signatures.parent / "work", config, run)
    found = [read_duplicates(part.duplicates) for part in parts]
    return Duplicates(np.concatenate([f.originals for f in found]), np.concatenate([f.exact for f in found]))
