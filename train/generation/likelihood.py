"""How likely continuations are after their contexts, many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Likelihood(NamedTuple):
    """Of one continuation.

    Args:
        nats: sum of its tokens' log-probabilities, at most 0.
        tokens: that it has.
        greedy: every token is the likeliest one at its place.
    """

    nats: float
    tokens: int
    greedy: bool


def log_likelihoods(
    model: Callable[..., Tensor],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    maximum_length: int,
    device: torch.device,
    tokens_at_once: int = 4096,
    progress: Callable[[int], None] = lambda pairs: None,
) -> list[Likelihood]:
    """Return the likelihood of the second of each pair after the first.

    Pairs are sorted by length and padded on the right, where causality hides it: a result doesn't depend on its batch
    beyond the rounding of matrix products of other shapes.

    Args:
        model: called as a Transformer: `model(tokens, at_BN=positions)`.
        pairs: ids of a context, at least one, and of what continues it, which may be empty.
        maximum_length: most tokens of the model's input; of what is longer the beginning is left out.
        tokens_at_once: most tokens of a batch, padding included.
        progress: told the number of pairs scored since the last call.

    Raises:
        ValueError: a context without a token.
    """
    results = [Likelihood(0.0, 0, True)] * len(pairs)
    rows: list[tuple[int, list[int], int]] = []  # index, ids, tokens of the continuation
    for index, (context, continuation) in enumerate(pairs):
        if not len(context):
            raise ValueError("a context needs at least one token to predict the first one from")
        if len(continuation):
            ids = [*context, *continuation][-(maximum_length + 1) :]
            rows.append((index, ids, min(len(continuation), len(ids) - 1)))
    rows.sort(key=lambda row: -len(row[1]))
    progress(len(pairs) - len(rows))
    with torch.no_grad():
        while rows:
            count = max(1, tokens_at_once // len(rows[0][1]))
            batch, rows = rows[:count], rows[count:]
            for (index, _, _), scored in zip(batch, _score(model, batch, device)):
                results[index] = scored
            progress(len(batch))
    return results


def _score(
    model: Callable[..., Tensor], rows: list[tuple[int, list[int], int]], device: torch.device
) -> list[Likelihood]:
    longest, most = max(len(ids) for _, ids, _ in rows), max(count for _, _, count in rows)
    inputs = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
    at, targets = (torch.zeros(len(rows), most, dtype=torch.int64) for _ in range(2))
    for row, (_, ids, count) in enumerate(rows):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        at[row, :count] = torch.arange(len(ids) - 1 - count, len(ids) - 1)
        targets[row, :count] = torch.tensor(ids[-count:])
    logits = model(inputs.to(device), at_BN=at.to(device)).float()
    targets = targets.to(device)
    chosen = logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).double().cpu()
    likeliest = (logits.argmax(dim=-1) == targets).cpu()
    return [
        Likelihood(float(chosen[row, :count].sum()), count, bool(likeliest[row, :count].all()))
        for row, (_, _, count) in enumerate(rows)
    ]
