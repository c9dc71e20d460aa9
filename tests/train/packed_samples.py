"""Samples of a known layout, packed several to a sequence as the data pipeline packs them, or each alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.labels import LEARNT, REJECTED
from data_pipeline.loader import IGNORED, Batch

LENGTH = 32
LAYOUTS = [[(2, 3, 4)], [(3, 2, 5), (2, 4, 3)], [(1, 1, 1), (4, 2, 2), (2, 3, 3)], [(4, 12, 13)]]
"""Per sequence, of each sample the tokens of prompt, chosen and rejected answer. The last one fills its sequence."""


@dataclass(frozen=True)
class Half:
    """A prompt with an answer.

    Args:
        tokens: (n,).
        prompt: how many of them are the prompt.
    """

    tokens: Tensor
    prompt: int


def draw_pairs(seed: int, sequences: int, vocabulary: int) -> list[list[tuple[Half, Half]]]:
    """Return per sequence its samples, each with chosen and rejected half."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randint(vocabulary, (count,), generator=generator)

    rows = []
    for number in range(sequences):
        row = []
        for prompt, chosen, rejected in LAYOUTS[number % len(LAYOUTS)]:
            asked = draw(prompt)
            first, second = (Half(torch.cat((asked, draw(count))), prompt) for count in (chosen, rejected))
            row.append((first, second))
        rows.append(row)
    return rows


def packed(rows: list[list[tuple[Half, Half]]], as_pairs: bool = True) -> Batch:
    """Return the samples of each sequence behind one another, and padding.

    Args:
        as_pairs: chosen and rejected half are one sample; otherwise each is one with an answer.
    """
    tokens = torch.zeros(len(rows), LENGTH + 1, dtype=torch.int64)
    labels = torch.zeros(len(rows), LENGTH + 1, dtype=torch.uint8)
    ends: list[list[int]] = []
    for number, row in enumerate(rows):
        at, found = 0, []
        for halves in row:
            for half, mark in zip(halves, (0, REJECTED if as_pairs else 0)):
                stop = at + len(half.tokens)
                tokens[number, at:stop] = half.tokens
                labels[number, at:stop] = mark
                labels[number, at + half.prompt : stop] |= LEARNT
                at = stop
                if not as_pairs:
                    found.append(at)
            found.append(at)
        ends.append([*sorted({end for end in found if end < LENGTH}), LENGTH])
    targets = tokens[:, 1:].masked_fill(labels[:, 1:] & LEARNT == 0, IGNORED)
    return Batch(tokens[:, :-1].contiguous(), targets, ends, range(len(rows)), labels)
