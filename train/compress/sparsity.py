"""Unstructured pruning: which weights become zero, by their size alone or by what they are multiplied with as well."""

from __future__ import annotations

import torch
from torch import Tensor

PATTERNS = {"2:4": (2, 4)}
"""Of so many neighbours in a row, how many become zero: what NVIDIA's sparse tensor cores take (Mishra et al. 2021)."""


def magnitude_scores(weight_NK: Tensor) -> Tensor:
    """Return |weight| (Han et al. 2015)."""
    return weight_NK.abs()


def wanda_scores(weight_NK: Tensor, norms_K: Tensor) -> Tensor:
    """Return |weight| times the length of its inputs.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models.
    """
    return weight_NK.abs() * norms_K


def keep_largest(scores_NK: Tensor, share: float, by_row: bool) -> Tensor:
    """Return booleans (N, K): False at the share with the smallest scores, of each row or of the whole matrix."""
    compared = scores_NK if by_row else scores_NK.reshape(1, -1)
    pruned = int(compared.shape[1] * share)
    order = torch.argsort(compared, dim=1, stable=True)
    kept = torch.ones_like(compared, dtype=torch.bool)
    kept.scatter_(1, order[:, :pruned], False)
    return kept.view(scores_NK.shape)


def keep_pattern(scores_NK: Tensor, zeros: int, of: int) -> Tensor:
    """Return booleans (N, K): False at the `zeros` smallest scores of each `of` neighbours in a row.

    Raises:
        ValueError: `of` doesn't divide the rows.
    """
    rows, columns = scores_NK.shape
    if columns % of:
        raise ValueError(f"groups of {of} don't divide rows of {columns}")
    return keep_largest(scores_NK.view(-1, of), zeros / of, by_row=True).view(rows, columns)
