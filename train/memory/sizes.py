"""The sizes of a model's parameters, in the order in which they are partitioned, and who holds which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from train.model.adapters import LoraConfig, attach_adapters, freeze
from train.model.split_layers import SplitLayers
from train.model.transformer import Transformer, TransformerConfig
from train.optimizer import OptimizerConfig, by_role, moments_of, shapes_of

FLOAT = 4


@dataclass(frozen=True)
class ParameterSizes:
    """Elements of each parameter, tied ones once.

    Args:
        groups: as the optimizer has them.
        moments: that the optimizer keeps of each group's parameters; two if not given.
        matrices: rows and columns of those that are made orthogonal.
    """

    groups: tuple[tuple[int, ...], ...]
    moments: tuple[int, ...] = ()
    matrices: tuple[tuple[int, int], ...] = ()

    @cached_property
    def total(self) -> int:
        return sum(map(sum, self.groups))

    @cached_property
    def largest(self) -> int:
        return max(map(max, self.groups))

    @cached_property
    def largest_group(self) -> int:
        return max(map(sum, self.groups))

    @cached_property
    def in_moments(self) -> int:
        """Elements of all moments."""
        moments = self.moments or (2,) * len(self.groups)
        return sum(kept * sum(group) for kept, group in zip(moments, self.groups))

    @property
    def state_bytes(self) -> int:
        """Bytes of a checkpoint: float32 weights and moments."""
        return FLOAT * (self.total + self.in_moments)

    def smaller_than(self, threshold: int) -> int:
        """Return the elements in parameters of fewer than `threshold` elements."""
        return sum(size for group in self.groups for size in group if size < threshold)

    def held_whole(self, ranks: int) -> int:
        """Return the most elements that a rank has in parameters of which any part is its own.

        ZeRO-2 keeps the gradients of those whole, also where a partition ends within a parameter.
        """
        held = np.zeros(ranks + 1, dtype=np.int64)
        for group in self.groups:
            partition = -(-sum(group) // ranks)
            ends = np.cumsum(np.asarray(group, dtype=np.int64))
            numbers = np.asarray(group, dtype=np.int64)
            first, last = (ends - numbers) // partition, (ends - 1) // partition
            np.add.at(held, first, numbers)
            np.subtract.at(held, last + 1, numbers)
        return int(np.cumsum(held)[:ranks].max())


def parameter_sizes(
    model: TransformerConfig,
    optimizer: OptimizerConfig | None = None,
    lora: LoraConfig | None = None,
    averaged: bool = False,
    tensor_ranks: int = 1,
) -> ParameterSizes:
    """Return the sizes of what is trained of a resolved model, all of it or adapters, without the memory for any.

    Args:
        averaged: an average of the weights is kept among the moments.
        tensor_ranks: that split each block; the sizes are then of what one of them holds.
    """
    optimizer = optimizer or OptimizerConfig()
    with torch.device("meta"):
        module = Transformer(model, SplitLayers(None, 0, tensor_ranks) if tensor_ranks > 1 else None)
        if lora is not None and lora.rank:
            freeze(module, torch.float32)
            attach_adapters(module, lora)
        groups = by_role(shapes_of(module), optimizer, model.width)
    return ParameterSizes(
        groups=tuple(tuple(math.prod(shape) for _, shape in members) for members in groups.values()),
        moments=tuple(moments_of(role, optimizer) + averaged for role in groups),
        matrices=tuple(
            (shape[0], shape[1]) for role, members in groups.items() if role.orthogonal for _, shape in members
        ),
    )
