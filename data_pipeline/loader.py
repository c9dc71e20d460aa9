"""From a dataset folder to the batches of each step: numbers → rows → micro-batches, one thread ahead.

The stages are composed as a `webdataset.DataPipeline`, so a stage of your own fits between any two of them. Tokens are
ready-made, so one background thread suffices: worker processes would pass every batch through a pipe, which was
measured to be ten times slower.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import webdataset
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.order import DEFAULT_WINDOW, Order, rank_share
from data_pipeline.packing import Rows, read_rows
from data_pipeline.store import Store

STEPS_AHEAD = 4


@dataclass
class DataConfig:
    """What is streamed.

    Args:
        path: a dataset folder that `headrace prepare` wrote.
        sequence_length: tokens of a model's input, T.
        window: sequences that are shuffled among themselves, on top of the shuffled blocks.
    """

    path: str = "???"
    sequence_length: int = 256
    window: int = DEFAULT_WINDOW


@dataclass(frozen=True)
class Batch:
    """A micro-batch: inputs and next tokens, each (sequences, T) int64, and the document ends of each sequence."""

    tokens: Tensor
    targets: Tensor
    document_ends: list[list[int]]
    numbers: range


@dataclass(frozen=True)
class Share:
    """Which part of each step's batch this process takes.

    Args:
        batch: sequences of a step over all ranks.
        micro: sequences of one forward pass.
        rank: this process, of `ranks` that read different data.
    """

    batch: int
    micro: int
    rank: int = 0
    ranks: int = 1


def open_split(config: DataConfig, split: str, seed: int, shuffle: bool = True) -> tuple[Order, Store]:
    """Open one split of a dataset for reading in order.

    Raises:
        UserError: no dataset there, no such split, or a split shorter than one sequence.
        Failure: an index is damaged.
    """
    folder = Path(config.path)
    if config.sequence_length < 1 or config.window < 1:
        raise UserError("data.sequence_length and data.window must be at least 1")
    manifest = load_manifest(folder)
    store = Store(folder, manifest, split)
    try:
        order = Order(manifest.fingerprint, seed, store.block_tokens, config.sequence_length, config.window, shuffle)
    except ValueError as error:
        raise UserError(
            f"{folder}: split `{split}`: {error}; prepare more text or shorten data.sequence_length"
        ) from None
    return order, store


def stream(order: Order, store: Store, share: Share, first_step: int) -> webdataset.DataPipeline:
    """Return the endless stream of a rank's steps, each a list of micro-batches, from `first_step` on."""
    return webdataset.DataPipeline(
        lambda: step_numbers(share, first_step),
        lambda numbers: (read_rows(order, store, each) for each in numbers),
        lambda rows: (micro_batches(each, share.micro) for each in rows),
        lambda batches: read_ahead(batches, STEPS_AHEAD),
    )


def step_numbers(share: Share, first_step: int) -> Iterator[range]:
    """Yield the numbers of this rank's sequences, step by step."""
    for step in itertools.count(first_step):
        yield rank_share(step, share.batch, share.rank, share.ranks)


def micro_batches(rows: Rows, micro: int) -> list[Batch]:
    """Split a step's rows into micro-batches of int64 tensors."""
    tokens = torch.from_numpy(rows.tokens.astype("int64"))
    return [
        Batch(
            tokens[at : at + micro, :-1],
            tokens[at : at + micro, 1:],
            rows.document_ends[at : at + micro],
            rows.numbers[at : at + micro],
        )
        for at in range(0, len(tokens), micro)
    ]


def read_ahead(items: Iterator[Any], depth: int) -> Iterator[Any]:
    """Yield items that a background thread takes from an iterator, at most `depth` of them ahead.

    An error in the iterator is raised here, at its place in the order. Closing this generator ends the thread.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def hand_over(kind: str, item: Any) -> None:
        while not closed.is_set():
            try:
                return ready.put((kind, item), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                hand_over("item", item)
                if closed.is_set():
                    return
            hand_over("end", None)
        except BaseException as error:
            hand_over("error", error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        closed.set()
        thread.join(timeout=5)
