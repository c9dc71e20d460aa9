"""From a dataset folder to the batches of each step: steps → rows → read ahead → micro-batches.

The stages are composed as a `webdataset.DataPipeline`, so a stage of your own fits between any two of them. Tokens are
ready-made, so one background thread suffices: worker processes would pass every batch through a pipe, which was
measured to be ten times slower. Rows are assembled a few steps at a time, as stored; what is small stays in the
processor's cache when the consumer widens it to int64.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from data_pipeline.curriculum import Steps
from data_pipeline.order import rank_share
from data_pipeline.sequences import Rows, Sequences, SequenceSource

CHUNK_TOKENS = 1 << 20
"""Steps are read together until they have as many tokens."""
CHUNKS_AHEAD = 3
IGNORED = -1
"""As a target: nothing is learnt from it."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Args:
        tokens, targets: inputs and next tokens, each (sequences, T) int64; a negative target doesn't count.
        document_ends: per sequence, the exclusive ends of its documents, the last one T; None unless asked for.
        numbers: of the sequences in the run.
        labels: (sequences, T + 1) uint8, of the tokens of samples, the last targets among them; None of running text.
    """

    tokens: Tensor
    targets: Tensor
    document_ends: list[list[int]] | None
    numbers: range
    labels: Tensor | None = None

    @property
    def counted_targets(self) -> int:
        """How many targets count."""
        return int((self.targets >= 0).sum())


@dataclass(frozen=True)
class Share:
    """Which part of each step's batch this process takes.

    Args:
        micro: sequences of one forward pass.
        rank: this process, of `ranks` that read different data.
    """

    micro: int
    rank: int = 0
    ranks: int = 1


@dataclass(frozen=True)
class Chunk:
    """Rows of a few steps, and the numbers of the sequences in each step."""

    steps: list[range]
    rows: Rows


def stream(
    sequences: Sequences, share: Share, first_step: int, with_documents: bool = False
) -> webdataset.DataPipeline:
    """Return the endless stream of a rank's steps, each a list of micro-batches, from `first_step` on.

    Args:
        with_documents: tell where documents end.
    """
    return webdataset.DataPipeline(
        lambda: chunks_of_steps(sequences.order.steps, share, first_step, CHUNK_TOKENS),
        lambda chunks: (Chunk(steps, read_steps(sequences, steps, with_documents)) for steps in chunks),
        lambda chunks: read_ahead(chunks, CHUNKS_AHEAD, sequences.store.make_way),
        lambda chunks: (batches for chunk in chunks for batches in batches_of_steps(chunk, share.micro)),
    )


def chunks_of_steps(steps: Steps, share: Share, first_step: int, tokens: int) -> Iterator[list[range]]:
    """Yield the numbers of this rank's sequences, step by step, a few steps of one segment at a time.

    Args:
        tokens: of the steps that are put together, about.
    """
    step = first_step
    while True:
        segment = steps.segment(step)
        per_step = segment.sequences // share.ranks * segment.length
        count = max(1, tokens // per_step)
        if segment.steps is not None:
            count = min(count, segment.first_step + segment.steps - step)
        yield [rank_share(steps.numbers(each), share.rank, share.ranks) for each in range(step, step + count)]
        step += count


def read_steps(sequences: SequenceSource, steps: list[range], with_documents: bool) -> Rows:
    """Return the rows of a few steps behind one another."""
    numbers = np.concatenate([np.arange(numbers.start, numbers.stop) for numbers in steps])
    return sequences.read(numbers, with_documents)


def batches_of_steps(chunk: Chunk, micro: int) -> Iterator[list[Batch]]:
    """Yield each step's micro-batches."""
    at = 0
    for numbers in chunk.steps:
        yield [
            batch_of_rows(chunk.rows, at + first, numbers[first : first + micro])
            for first in range(0, len(numbers), micro)
        ]
        at += len(numbers)


def batch_of_rows(rows: Rows, first: int, numbers: range) -> Batch:
    """Make a micro-batch of the rows from `first` on."""
    stop = first + len(numbers)
    both = rows.tokens[first:stop].astype(np.int64)
    # Sliced before they become tensors: numpy does it in a tenth of the time.
    tokens, targets = torch.from_numpy(both[:, :-1]), torch.from_numpy(both[:, 1:])
    if rows.ignored is not None:
        targets = targets.masked_fill(torch.from_numpy(rows.ignored[first:stop]), IGNORED)
    ends = rows.document_ends[first:stop] if rows.document_ends is not None else None
    labels = torch.from_numpy(rows.labels[first:stop]) if rows.labels is not None else None
    return Batch(tokens, targets, ends, numbers, labels)


def read_ahead(items: Iterator[Any], depth: int, idle: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Yield items that a background thread takes from an iterator, at most `depth` of them ahead.

    An error in the iterator is raised here, at its place in the order. Closing this generator ends the thread.

    Args:
        idle: called now and then in the thread while it waits for items to be taken.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def hand_over(kind: str, item: Any) -> None:
        while not closed.is_set():
            try:
                return ready.put((kind, item), timeout=0.1)
            except queue.Full:
                idle()

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
