"""Blocks whose matrices are split over several ranks that read the same sequences (Shoeybi et al. 2019, Megatron-LM).

What leads out of the residual stream is split by rows: queries, keys and values by heads, gate and up by hidden
channels, a mixture by whole experts. What leads back into it is split by columns, and gives each rank a summand of the
output. So a block's layer sends two sums: of its output going forward, of its input's gradient going backward.

All else is whole on every rank: norms, routers, embedding and head compute the same numbers everywhere, and get the
same gradients, as long as whatever reaches a split part alone passes `entering` before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
from torch import Tensor, nn

ROWS = tuple(f"{layer}.{part}" for layer in ("query", "key", "value", "gate", "up") for part in ("weight", "bias"))
EXPERTS = ("experts.gate", "experts.up", "experts.down")
COLUMNS = ("attention.output.weight", "down.weight")
MARK = "tensor_model_parallel"
"""The attribute by which DeepSpeed knows parameters that differ between ranks, and must all count in a norm."""


class Located(NamedTuple):
    """Where in a whole parameter a rank's own part lies.

    Args:
        shape: of the whole.
        start: element of the flattened whole that the part begins with, where it is of rows.
        columns: (first, behind the last) of the whole that the part consists of; None if it has all.
    """

    shape: tuple[int, ...]
    start: int = 0
    columns: tuple[int, int] | None = None


@dataclass(frozen=True)
class SplitLayers:
    """The ranks that hold each block together with this one.

    Args:
        group: None where nothing is computed.
        number: which part is this rank's.
        ranks: in how many equal parts matrices are split.
    """

    group: distributed.ProcessGroup | None
    number: int
    ranks: int

    def entering(self, x: Tensor) -> Tensor:
        """Return what all ranks have alike, for what each does by itself: its gradient is the sum of all ranks'."""
        return _Entering.apply(x, self.group)

    def summed(self, x: Tensor) -> Tensor:
        """Return the sum of all ranks' summands, on each of them."""
        return _Summed.apply(x, self.group)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole parameter, as a view."""
        axis = split_axis(name)
        return whole if axis is None else whole.chunk(self.ranks, dim=axis)[self.number]

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Return a whole parameter out of all ranks' parts. Every rank calls it."""
        axis = split_axis(name)
        if axis is None:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        distributed.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=axis)

    def located(self, name: str, shape: Sequence[int]) -> Located:
        """Return where a rank's parameter of that shape lies in the whole."""
        axis = split_axis(name)
        if axis is None:
            return Located(tuple(shape))
        if axis == 0:
            return Located((shape[0] * self.ranks, *shape[1:]), self.number * math.prod(shape))
        rows, columns = shape
        return Located((rows, columns * self.ranks), 0, (self.number * columns, (self.number + 1) * columns))

    def mark(self, model: nn.Module) -> None:
        """Mark the parameters that are split."""
        for name, parameter in model.named_parameters():
            if split_axis(name) is not None:
                setattr(parameter, MARK, True)


def split_axis(name: str) -> int | None:
    """Return the axis along which a parameter is split, or None where it is whole on every rank."""
    if name.endswith((*ROWS, *EXPERTS)):
        return 0
    return 1 if name.endswith(COLUMNS) else None


def is_split(parameter: Tensor) -> bool:
    """Return whether a parameter differs between the ranks that hold a block together."""
    return bool(getattr(parameter, MARK, False))


def parts_of(split: SplitLayers | None) -> int:
    """Return in how many parts layers are split."""
    return 1 if split is None else split.ranks


class _Entering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _sum(gradient, ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def _sum(x: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """Return the sum; what went in may be kept by others, and stays as it is."""
    x = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x, group=group)
    return x
