"""Loss of a model on text: perplexity, and bits per byte, which compares across tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -1


@dataclass(frozen=True)
class Score:
    """A summed loss and what it is spread over.

    Args:
        nats: loss summed over tokens.
        tokens: that were predicted.
        bytes: UTF-8 bytes of text that they stand for.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(1, self.bytes)


def score_tokens(
    model: Callable[..., Tensor],
    tokens: NDArray[np.int64],
    token_bytes: NDArray[np.int64],
    length: int,
    overlap: int,
    batch: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda scored: None,
) -> Score:
    """Predict every token but the first from those before it, in windows.

    Args:
        model: called as `model(inputs, targets)` for the summed loss, as a Transformer is.
        tokens: (tokens,) the text behind an end-of-document token, which is context only.
        token_bytes: (vocabulary,) bytes of each token.
        length: tokens of a window's input.
        overlap: tokens of each window that are context only, seen and scored by the window before. 0 is the cheapest
            and hardest on the model; length - 1 gives every token a whole window of context.
        batch: windows at once.
        progress: told the tokens scored so far.
    """
    nats = 0.0
    scored = 0
    with torch.no_grad():
        for inputs, targets in _batches(tokens, length, overlap, batch):
            nats += float(model(inputs.to(device), targets.to(device)))
            scored += int((targets != IGNORED).sum())
            progress(scored)
    return Score(nats, scored, int(token_bytes[tokens[1:]].sum()))


def windows(tokens: int, length: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start of the input, first target scored, end of targets) so that each target is scored once."""
    first = 1
    while first < tokens:
        start = max(0, first - 1 - (overlap if first > 1 else 0))
        stop = min(tokens, start + length + 1)
        yield start, first, stop
        first = stop


def _batches(tokens: NDArray[np.int64], length: int, overlap: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for start, first, stop in windows(len(tokens), length, overlap):
        inputs = np.zeros(length, dtype=np.int64)
        targets = np.full(length, IGNORED, dtype=np.int64)
        inputs[: stop - 1 - start] = tokens[start : stop - 1]
        targets[first - 1 - start : stop - 1 - start] = tokens[first:stop]
        rows.append((inputs, targets))
        if len(rows) == batch:
            yield _stack(rows)
            rows = []
    if rows:
        yield _stack(rows)


def _stack(rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([inputs for inputs, _ in rows])),
        torch.from_numpy(np.stack([targets for _, targets in rows])),
    )
