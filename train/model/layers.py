"""Layers that leave their memory as it comes, for `initialise_weights` sets every value once, and a norm for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from train.model.split_layers import SplitLayers


class Linear(nn.Linear):
    """A linear layer, with an adapter beside it where one is attached, and seen otherwise where it has a view.

    Where its columns are split over ranks, the outputs of all of them are added up.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, bias=bias)
        self.adapter: nn.Module | None = None
        self.view: Callable[[Tensor], Tensor] | None = None
        self.split: SplitLayers | None = None

    def forward(self, x: Tensor) -> Tensor:
        # By this name, which DeepSpeed gives to a function of its own at stage 3.
        output = functional.linear(x, self.weight if self.view is None else self.view(self.weight))
        if self.split is not None:
            output = self.split.summed(output)
        if self.bias is not None:
            # That function would add it in place to the product, which recomputation may have kept, and again then.
            output = output + self.bias
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

    There PyTorch has no kernel for it, and its formula and its gradient go over memory many times. Where layers are
    split over ranks, one of heads normalises other heads on each.
    """

    split: SplitLayers | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.split is None else self.split.entering(self.weight)
        is_ours = x.device.type == "cpu" and x.dtype == torch.float32 and self.weight.dtype == torch.float32
        if is_ours and not torch.compiler.is_compiling():
            return _RootMeanSquare.apply(x, weight, self.eps)
        return functional.rms_norm(x, self.normalized_shape, weight, self.eps)


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
