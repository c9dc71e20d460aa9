"""Losses of a linear layer's output that never hold all logits at once, with exact gradients.

The logits of a vocabulary of 128k tokens take more memory than the model's activations. So they are made in chunks of
tokens. Of a sum over tokens, each chunk's part of the gradient is taken while its logits are there, and only the
gradients are kept: three matrix products in all, as many as the plain way needs. Of a value per token, the gradient
isn't known before the backward pass, which makes the logits again: four.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 23
"""Logits held at once: 32 MiB in float32. With half as many the matrix products were measured a tenth slower."""
CHUNK_ROWS = 512
"""Of a chunk at least, however large the vocabulary: each reads the head's weights twice, and their gradient."""

ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Callable[[], Tensor]]]
"""From the float32 logits (n, V) of some rows to their summed loss, and what makes its gradient by them, in place."""


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, loss: ChunkLoss) -> Tensor:
        total, *gradients = _by_chunks(hidden_ND, weight_VD, loss, any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        # In place: a second backward pass, for which they would have to stay, is refused by autograd.
        hidden_gradient, weight_gradient = (gradient.mul_(scale.to(gradient.dtype)) for gradient in ctx.saved_tensors)
        return hidden_gradient, weight_gradient, None


def _by_chunks(hidden_ND: Tensor, weight_VD: Tensor, loss: ChunkLoss, wanted: bool = True) -> tuple[Tensor, ...]:
    """Return the summed loss, and where they are wanted its gradients by hidden states and weights."""
    hidden_gradient = torch.empty_like(hidden_ND) if wanted else None
    weight_gradient: Tensor | None = None
    total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
    reused: Tensor | None = None
    for rows in chunks(hidden_ND, weight_VD):
        logits, reused = _logits(hidden_ND[rows], weight_VD, reused)
        summed, gradient = loss(logits, rows)
        total += summed
        if hidden_gradient is not None:
            weight_gradient = _pass_back(gradient(), hidden_ND, weight_VD, rows, hidden_gradient, weight_gradient)
    return (total,) if hidden_gradient is None else (total, hidden_gradient, _whole(weight_gradient, weight_VD))


def _logits(hidden_ND: Tensor, weight_VD: Tensor, reused: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return float32 logits, in the memory of the chunk before where that will do: fresh memory costs a third more."""
    if hidden_ND.dtype != torch.float32:
        return (hidden_ND @ weight_VD.t()).float(), None
    if reused is None:
        reused = hidden_ND.new_empty(hidden_ND.shape[0], weight_VD.shape[0])
    return torch.mm(hidden_ND, weight_VD.t(), out=reused[: hidden_ND.shape[0]]), reused


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        log_probabilities = torch.empty(targets_N.shape, dtype=torch.float32, device=hidden_ND.device)
        log_partitions = torch.empty_like(log_probabilities)
        for rows in chunks(hidden_ND, weight_VD):
            logits, targets = (hidden_ND[rows] @ weight_VD.t()).float(), targets_N[rows]
            log_partitions[rows] = logits.logsumexp(dim=1)
            chosen = logits.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
            log_probabilities[rows] = (chosen - log_partitions[rows]).masked_fill(targets < 0, 0.0)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, log_partitions)
        return log_probabilities

    @staticmethod
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        hidden_ND, weight_VD, targets_N, log_partitions = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden_ND)
        weight_gradient: Tensor | None = None
        upstream_N = upstream_N.masked_fill(targets_N < 0, 0.0)
        for rows in chunks(hidden_ND, weight_VD):
            logits, upstream = (hidden_ND[rows] @ weight_VD.t()).float(), upstream_N[rows].unsqueeze(1)
            gradient = logits.sub_(log_partitions[rows].unsqueeze(1)).exp_().mul_(-upstream)
            gradient.scatter_add_(1, targets_N[rows].clamp(min=0).unsqueeze(1), upstream)
            weight_gradient = _pass_back(gradient, hidden_ND, weight_VD, rows, hidden_gradient, weight_gradient)
        return hidden_gradient, _whole(weight_gradient, weight_VD), None


def chunks(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    """Yield the rows whose logits are made together."""
    rows = rows_at_once(weight_VD.shape[0])
    return (slice(start, start + rows) for start in range(0, hidden_ND.shape[0], rows))


def rows_at_once(vocabulary: int) -> int:
    """Return how many rows a chunk has."""
    return max(CHUNK_ROWS, CHUNK_LOGITS // vocabulary)


def _pass_back(
    gradient: Tensor,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    rows: slice,
    hidden_gradient: Tensor,
    weight_gradient: Tensor | None,
) -> Tensor:
    """Lead the gradient by some rows' logits on to what they are made of; return the weight's in float32 so far.

    The first chunk makes it: zeros to begin with would be a pass over all of it more.
    """
    gradient = gradient.to(weight_VD.dtype)
    torch.mm(gradient, weight_VD, out=hidden_gradient[rows])
    if weight_gradient is None:
        return (gradient.t() @ hidden_ND[rows]).float()
    if weight_VD.dtype == torch.float32:
        return weight_gradient.addmm_(gradient.t(), hidden_ND[rows])
    return weight_gradient.add_(gradient.t() @ hidden_ND[rows])


def _whole(weight_gradient: Tensor | None, weight_VD: Tensor) -> Tensor:
    return torch.zeros_like(weight_VD) if weight_gradient is None else weight_gradient.to(weight_VD.dtype)


def summed_loss(hidden_ND: Tensor, weight_VD: Tensor, loss: ChunkLoss) -> Tensor:
    """Return a loss of `hidden · weightᵀ`, summed over rows in float32.

    Args:
        hidden_ND: (N, D) outputs of the last layer.
        weight_VD: (V, D) one row per token of the vocabulary.
    """
    if not torch.is_grad_enabled():
        return _SummedLoss.apply(hidden_ND.detach(), weight_VD.detach(), loss)
    return _SummedLoss.apply(hidden_ND, weight_VD, loss)


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float = 0.0, fused: bool = False
) -> Tensor:
    """Return the cross-entropy of `hidden · weightᵀ` against targets, summed in float32.

    Args:
        hidden_ND: (N, D) outputs of the last layer.
        weight_VD: (V, D) one row per token of the vocabulary.
        targets_N: (N,) int64; negative ones are left out.
        z_loss: adds z_loss · (log partition)², which keeps logits from drifting (Chowdhery et al. 2022, PaLM).
        fused: all that isn't a matrix product is compiled, on a GPU into Triton's kernels: two passes over the logits.
    """
    if torch.compiler.is_compiling():
        return _in_a_graph(hidden_ND, weight_VD, targets_N, z_loss)[0]

    def loss_fused(logits: Tensor, rows: slice) -> tuple[Tensor, Callable[[], Tensor]]:
        summed, gradient = _compiled()(logits, targets_N[rows], z_loss)
        return summed, lambda: gradient

    loss = loss_fused if fused else _of_targets(targets_N, z_loss)
    return summed_loss(hidden_ND, weight_VD, loss)


def _of_targets(targets_N: Tensor, z_loss: float) -> ChunkLoss:
    """Return the cross-entropy of a chunk against its targets."""

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, Callable[[], Tensor]]:
        counted = (targets_N[rows] >= 0).to(logits.dtype)
        column = targets_N[rows].clamp(min=0).unsqueeze(1)
        chosen = logits.gather(1, column).squeeze(1)
        # In place on a CPU, whose kernel has read a row before it writes it.
        in_place = logits.device.type == "cpu"
        log_shares = torch.log_softmax(logits, 1, out=logits) if in_place else logits.log_softmax(1)
        losses = -log_shares.gather(1, column).squeeze(1)
        log_partition = losses + chosen
        if z_loss:
            losses = losses + z_loss * log_partition.square()

        def gradient() -> Tensor:
            shares = log_shares.exp_()
            if z_loss or not in_place or not bool(counted.all()):
                shares.mul_((counted * (1.0 + 2.0 * z_loss * log_partition)).unsqueeze(1))
            return shares.scatter_add_(1, column, -counted.unsqueeze(1))

        return (losses * counted).sum(), gradient

    return loss


@torch.library.custom_op("headrace::linear_cross_entropy", mutates_args=())
def _in_a_graph(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss and its gradients, as one operation of a graph that has the whole model in it."""
    total, by_hidden, by_weight = _by_chunks(hidden_ND, weight_VD, _of_targets(targets_N, z_loss))
    return total, by_hidden, by_weight


@_in_a_graph.register_fake
def _(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    return hidden_ND.new_empty((), dtype=torch.float32), torch.empty_like(hidden_ND), torch.empty_like(weight_VD)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None]:
    by_hidden, by_weight = ctx.saved_tensors
    return by_hidden * scale.to(by_hidden.dtype), by_weight * scale.to(by_weight.dtype), None, None


_in_a_graph.register_autograd(_scale_gradients, setup_context=_keep_gradients)


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    return torch.compile(_loss_with_gradient, dynamic=True)


def _loss_with_gradient(logits_NV: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Return the summed loss of some rows and its gradient by their logits, as formulas that a compiler can fuse."""
    counted_N = (targets_N >= 0).to(logits_NV.dtype)
    is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N.unsqueeze(1)
    log_partition_N = logits_NV.logsumexp(1)
    chosen_N = torch.where(is_target_NV, logits_NV, 0.0).sum(1)
    losses_N = log_partition_N - chosen_N + z_loss * log_partition_N.square()
    shares_NV = (logits_NV - log_partition_N.unsqueeze(1)).exp() * (1.0 + 2.0 * z_loss * log_partition_N).unsqueeze(1)
    gradient_NV = (shares_NV - is_target_NV.to(logits_NV.dtype)) * counted_N.unsqueeze(1)
    return (losses_N * counted_N).sum(), gradient_NV


def linear_log_probabilities(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return the log-probability of each target under `softmax(hidden · weightᵀ)`, (N,) in float32.

    Args:
        hidden_ND: (N, D) outputs of the last layer.
        weight_VD: (V, D) one row per token of the vocabulary.
        targets_N: (N,) int64; a negative one has 0, and no gradient.
    """
    return _LogProbabilities.apply(hidden_ND, weight_VD, targets_N)
