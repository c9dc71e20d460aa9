"""Keys and values of sequences of different lengths, so that they can be continued together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from train.model.transformer import TransformerConfig


class RaggedCache:
    """A key-value cache whose rows have lengths of their own.

    Prompts are padded on the right: there causality hides the padding, so that the first pass needs no mask and
    positions are those of a prompt alone. Later tokens overwrite the padding, one a call.

    Args:
        config: of the model that will fill it.
        lengths_B: tokens of each prompt.
        capacity: most tokens that a row can hold.
    """

    def __init__(
        self,
        config: TransformerConfig,
        lengths_B: Tensor,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        shape = (config.layers, len(lengths_B), config.key_value_heads, capacity, config.width_of_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths_B = lengths_B.to(device)
        self.filled = False
        self.mask: Tensor | None = None

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the next tokens: (T,) of the prompts, then (B, 1).

        Raises:
            ValueError: more than one token a row behind the prompts.
        """
        if not self.filled:
            return torch.arange(tokens, device=self.keys.device)
        if tokens != 1:
            raise ValueError("rows of different lengths go on a token at a time")
        return self.lengths_B.unsqueeze(1)

    def extend(self, layer: int, keys_BHTK: Tensor, values_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values of one layer behind those of their rows; return all of them."""
        if not self.filled:
            tokens = keys_BHTK.shape[2]
            self.keys[layer, :, :, :tokens] = keys_BHTK
            self.values[layer, :, :, :tokens] = values_BHTK
            return keys_BHTK, values_BHTK
        assert self.mask is not None
        rows, end = torch.arange(len(keys_BHTK), device=self.keys.device), self.mask.shape[-1]
        self.keys[layer, rows, :, self.lengths_B] = keys_BHTK[:, :, 0]
        self.values[layer, rows, :, self.lengths_B] = values_BHTK[:, :, 0]
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count the tokens that all layers have written."""
        if self.filled:
            self.lengths_B = self.lengths_B + tokens
        self.filled = True
        self._set_mask()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths_B = self.lengths_B[rows]
        self._set_mask()

    def _set_mask(self) -> None:
        """Let the next token of a row see what its row holds, and itself."""
        seen = torch.arange(int(self.lengths_B.max()) + 1, device=self.keys.device)
        self.mask = (seen <= self.lengths_B.unsqueeze(1))[:, None, None, :]
