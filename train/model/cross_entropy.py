"""Cross-entropy of a linear layer's output that never holds all logits at once, with exact gradients.

The logits of a vocabulary of 128k tokens take more memory than the model's activations. So they are made in chunks of
tokens; each chunk's part of the gradient is taken while its logits are there, and only the gradients are kept. Three
matrix products in all, as many as the plain way needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 22
"""Logits held at once: 16 MiB in float32, which stays near a CPU core's cache and is no burden to a GPU."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float) -> Tensor:
        rows = max(1, CHUNK_LOGITS // weight_VD.shape[0])
        wanted = any(ctx.needs_input_grad)
        hidden_gradient = torch.empty_like(hidden_ND) if wanted else None
        weight_gradient = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], rows):
            hidden, targets = hidden_ND[start : start + rows], targets_N[start : start + rows]
            logits = (hidden @ weight_VD.t()).float()
            counted = targets >= 0
            column = targets.clamp(min=0).unsqueeze(1)
            log_partition = logits.logsumexp(dim=1)
            losses = log_partition - logits.gather(1, column).squeeze(1)
            if z_loss:
                losses = losses + z_loss * log_partition.square()
            total += losses.masked_fill(~counted, 0.0).sum()
            if hidden_gradient is None or weight_gradient is None:
                continue
            # In place, logits become the gradient of the summed loss by the logits.
            gradient = logits.sub_(log_partition.unsqueeze(1)).exp_()
            if z_loss:
                gradient.mul_((1.0 + 2.0 * z_loss * log_partition).unsqueeze(1))
            gradient.scatter_add_(1, column, torch.full_like(column, -1.0, dtype=gradient.dtype))
            gradient.masked_fill_(~counted.unsqueeze(1), 0.0)
            gradient = gradient.to(weight_VD.dtype)
            torch.mm(gradient, weight_VD, out=hidden_gradient[start : start + rows])
            if weight_VD.dtype == torch.float32:
                weight_gradient.addmm_(gradient.t(), hidden)
            else:
                weight_gradient += gradient.t() @ hidden
        if hidden_gradient is not None and weight_gradient is not None:
            ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return (
            hidden_gradient * scale.to(hidden_gradient.dtype),
            weight_gradient * scale.to(weight_gradient.dtype),
            None,
            None,
        )


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float = 0.0) -> Tensor:
    """Return the cross-entropy of `hidden · weightᵀ` against targets, summed in float32.

    Args:
        hidden_ND: (N, D) outputs of the last layer.
        weight_VD: (V, D) one row per token of the vocabulary.
        targets_N: (N,) int64; negative ones are left out.
        z_loss: adds z_loss · (log partition)², which keeps logits from drifting (Chowdhery et al. 2022, PaLM).
    """
    if not torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(hidden_ND.detach(), weight_VD.detach(), targets_N, z_loss)
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, z_loss)
