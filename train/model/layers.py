"""Layers that leave their memory as it comes, for `initialise_weights` sets every value once, and a norm for CPUs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """A linear layer, with an adapter beside it where one is attached, and seen otherwise where it has a view."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, bias=bias)
        self.adapter: nn.Module | None = None
        self.view: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x) if self.view is None else linear(x, self.view(self.weight), self.bias)
        return output if self.adapter is None else output + self.adapter(x)

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's own initialisation would be thrown away, and takes minutes for billions of weights."""


class Embedding(nn.Embedding):
    """An embedding, whose rows are seen otherwise where it has a view."""

    view: Callable[[Tensor], Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens)
        return rows if self.view is None else self.view(rows.flatten(0, -2)).view_as(rows)

    def reset_parameters(self) -> None:
        """Do nothing, as in `Linear`."""


class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation (Zhang and Sennrich 2019): PyTorch's, but on a CPU in half the time.

    There PyTorch has no kernel for it, and its formula and its gradient go over memory many times.
    """

    def forward(self, x: Tensor) -> Tensor:
        is_ours = x.device.type == "cpu" and x.dtype == torch.float32 and self.weight.dtype == torch.float32
        if is_ours and not torch.compiler.is_compiling():
            return _RootMeanSquare.apply(x, self.weight, self.eps)
        return super().forward(x)


class _RootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normal = x * inverse
        ctx.save_for_backward(normal, weight, inverse)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        normal, weight, inverse = ctx.saved_tensors
        product = (gradient * normal).flatten(0, -2)
        along = (product @ weight).div_(-normal.shape[-1]).view(inverse.shape)
        by_input = (gradient * weight).addcmul_(normal, along).mul_(inverse)
        return by_input, product.sum(0) if ctx.needs_input_grad[1] else None, None
