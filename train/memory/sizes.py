"""The sizes of a model's parameters, in the order in which they are partitioned, and who holds which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from train.model.adapters import LoraConfig, attach_adapters, freeze
from train.model.transformer import Transformer, TransformerConfig
from train.optimizer import is_decayed


@dataclass(frozen=True)
class ParameterSizes:
    """Elements of each parameter, tied ones once.

    Args:
        groups: as the optimizer has them: with and without weight decay.
    """

    groups: tuple[tuple[int, ...], ...]

    @cached_property
    def total(self) -> int:
        return sum(map(sum, self.groups))

    @cached_property
    def largest(self) -> int:
        return max(map(max, self.groups))

    @cached_property
    def largest_group(self) -> int:
        return max(map(sum, self.groups))

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
    model: TransformerConfig, decay_all: bool = False, lora: LoraConfig | None = None
) -> ParameterSizes:
    """Return the sizes of what is trained of a resolved model, all of it or adapters, without the memory for any."""
    with torch.device("meta"):
        module = Transformer(model)
        if lora is not None and lora.rank:
            freeze(module, torch.float32)
            attach_adapters(module, lora)
        named = [(name, parameter.dim(), parameter.numel()) for name, parameter in module.named_parameters()]
    decayed = tuple(numel for name, dimensions, numel in named if is_decayed(name, dimensions, decay_all))
    free = tuple(numel for name, dimensions, numel in named if not is_decayed(name, dimensions, decay_all))
    return ParameterSizes(tuple(group for group in (decayed, free) if group))
