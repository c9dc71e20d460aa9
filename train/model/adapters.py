"""Low-rank adapters (Hu et al. 2022, LoRA): beside every linear layer a small one is trained, and all else is frozen.

What is frozen becomes buffers, which DeepSpeed leaves alone at every ZeRO stage: every rank holds it whole, in the
run's number format, without gradient or moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from data_pipeline.foundation.errors import UserError
from train.model.layers import Linear


@dataclass
class LoraConfig:
    """Adapters instead of full tuning.

    Args:
        rank: of each adapter's product; None trains all weights.
        alpha: the product is scaled by alpha / rank; None takes twice the rank.
    """

    rank: int | None = None
    alpha: float | None = None

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        assert self.rank is not None
        return 2.0 if self.alpha is None else self.alpha / self.rank


def check_lora(config: LoraConfig, start_from: str | None) -> None:
    """Raise UserError for settings outside their range, or without weights to adapt."""
    if config.rank is None:
        if config.alpha is not None:
            raise UserError(f"lora.alpha={config.alpha} needs lora.rank=8, or another")
        return
    if config.rank < 1 or config.scale <= 0:
        raise UserError(f"lora.rank={config.rank} and lora.alpha={config.alpha} must be above 0")
    if start_from is None:
        raise UserError(f"lora.rank={config.rank} needs start_from=RUN, whose weights stay as they are")


class Adapter(nn.Module):
    """scale · up · down · x, which begins at 0."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.empty(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.down), self.up) * self.scale


def freeze(model: nn.Module, dtype: torch.dtype) -> None:
    """Make buffers of all parameters; tied ones stay tied."""
    frozen: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, frozen.setdefault(id(parameter), parameter.detach().to(dtype)))


def attach_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Put an adapter beside every linear layer."""
    assert config.rank is not None
    for module in list(model.modules()):
        if isinstance(module, Linear):
            module.adapter = Adapter(module.in_features, module.out_features, config.rank, config.scale)
