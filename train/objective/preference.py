"""Direct preference optimisation (Rafailov et al. 2023): of two answers, the better one becomes the likelier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from data_pipeline.labels import REJECTED
from data_pipeline.loader import Batch
from train.model.cross_entropy import linear_log_probabilities
from train.model.transformer import Transformer


@dataclass(frozen=True)
class Pairs:
    """The halves of a batch's samples: prompt with chosen answer, prompt with rejected answer.

    Args:
        ends: per sequence, the exclusive ends of halves, as of documents: neither half sees the other.
        lengths: of all halves, sequence after sequence.
        rejected: numbers of the rejected halves among them; the one before each is its chosen half.
    """

    ends: list[list[int]]
    lengths: list[int]
    rejected: list[int]


def pairs_of(batch: Batch) -> Pairs:
    """Divide samples where their labels turn to the rejected half. Without labels there is no pair."""
    assert batch.document_ends is not None
    sequences, length = batch.tokens.shape
    labels = np.zeros((sequences, length), np.uint8) if batch.labels is None else batch.labels.numpy()[:, :length]
    ends: list[list[int]] = []
    lengths: list[int] = []
    rejected: list[int] = []
    for marked, document_ends in zip(labels & REJECTED != 0, batch.document_ends, strict=True):
        turns = np.flatnonzero(marked[1:] != marked[:-1]) + 1
        row = sorted({*document_ends, *turns.tolist()})
        for start, stop in zip((0, *row[:-1]), row):
            if marked[start]:
                rejected.append(len(lengths))
            lengths.append(stop - start)
        ends.append(row)
    return Pairs(ends, lengths, rejected)


class DirectPreference:
    """-log σ(β · (ratio of the chosen answer - ratio of the rejected one)), summed over pairs.

    The ratio is how much likelier the model finds an answer than the reference does, as a logarithm.

    Args:
        beta: β; the larger, the closer the model stays to the reference.
        reference: frozen, held whole by every rank.
    """

    is_likelihood = False

    def __init__(self, beta: float, reference: Transformer):
        self.beta, self.reference = beta, reference

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return -logsigmoid(self.margins(model, batch)).sum()

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        margins = self.margins(model, batch)
        return {"loss": -logsigmoid(margins).sum(), "accuracy": (margins > 0).sum(), "margin": margins.sum()}

    def target_count(self, batch: Batch) -> int:
        return len(pairs_of(batch).rejected)

    def margins(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return by how much β times the chosen answer's ratio is above the rejected one's, (pairs,) in float32."""
        pairs = pairs_of(batch)
        of_targets = partial(linear_log_probabilities, targets_N=batch.targets.flatten())
        with torch.no_grad():
            before = self.reference(batch.tokens, document_ends=pairs.ends, output=of_targets)
        gained = model(batch.tokens, document_ends=pairs.ends, output=of_targets) - before
        device = gained.device
        ratios = torch.segment_reduce(gained, "sum", lengths=torch.tensor(pairs.lengths, device=device))
        rejected = torch.tensor(pairs.rejected, dtype=torch.int64, device=device)
        return self.beta * (ratios[rejected - 1] - ratios[rejected])
