"""The feed-forward layer of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import silu

from train.model.layers import Linear
from train.model.split_layers import SplitLayers, parts_of

if TYPE_CHECKING:
    from train.model.transformer import TransformerConfig


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): silu(gate) · up, projected back.

    Args:
        hidden_width: another than the configuration's.
        split: over which ranks; hidden channels are.
    """

    def __init__(self, config: TransformerConfig, hidden_width: int | None = None, split: SplitLayers | None = None):
        super().__init__()
        self.split = split
        hidden, bias = (hidden_width or config.hidden_width) // parts_of(split), config.feed_forward_bias
        self.gate = Linear(config.width, hidden, bias=bias)
        self.up = Linear(config.width, hidden, bias=bias)
        self.down = Linear(hidden, config.width, bias=bias)
        self.down.split = split

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.split is not None:
            x_BTD = self.split.entering(x_BTD)
        return self.down(silu(self.gate(x_BTD)) * self.up(x_BTD))
