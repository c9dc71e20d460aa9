"""GPTQ: each column's rounding error is made up for by the columns that are still to be rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from train.compress.rounding import choose_grid
from train.model.quantized import Packed, Scheme, nearest, pack

BLOCK = 128
"""Columns whose error is spread within them at once, and over the rest together."""


def gptq(weight_NK: Tensor, gram_KK: Tensor, scheme: Scheme, damping: float = 0.01, clip: bool = True) -> Packed:
    """Return a matrix quantized so that its product with the inputs at hand changes little.

    Columns are rounded one after the other, those with the largest inputs first, on grids chosen before; what each
    rounding does to the products is made up for by the columns after it, through the Cholesky factor of the inverse
    second moments.
    Source: Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers.

    Args:
        gram_KK: Xᵀ·X of the layer's inputs X.
        damping: share of the mean second moment that is added to each, so that the inverse exists.

    Raises:
        ValueError: groups don't divide the rows.
    """
    moments = gram_KK.diagonal()
    order = torch.argsort(moments, descending=True, stable=True)
    grid = choose_grid(weight_NK, scheme, clip, importance_K=moments.clamp(min=float(moments.mean()) * damping))
    factor = inverse_factor(gram_KK[order][:, order], damping)
    weight = weight_NK.float()[:, order].clone()
    columns = weight.shape[1]
    group_of = order // (columns // grid.scale.shape[1])
    scale = grid.scale.float()
    minimum = None if grid.minimum is None else grid.minimum.float()
    codes = torch.empty_like(weight)
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = torch.empty(len(weight), last - first, device=weight.device)
        for column in range(first, last):
            step = scale[:, group_of[column]]
            offset = None if minimum is None else minimum[:, group_of[column]]
            code = nearest(scheme.bits, weight[:, column], step, offset)
            value = code * step if offset is None else code * step + offset
            error = (weight[:, column] - value) / factor[column, column]
            weight[:, column + 1 : last].addr_(error, factor[column, column + 1 : last], alpha=-1)
            codes[:, column], errors[:, column - first] = code, error
        weight[:, last:] -= errors @ factor[first:last, last:]
    placed = torch.empty_like(codes, dtype=torch.int8)
    placed[:, order] = codes.to(torch.int8)
    return pack(grid, placed)


def inverse_factor(gram_KK: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of damped second moments."""
    gram = gram_KK.double()
    gram.diagonal().add_(damping * gram.diagonal().mean().clamp(min=1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return torch.linalg.cholesky(inverse, upper=True).float()
