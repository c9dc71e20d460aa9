"""Keys and values of the sequences that are continued together: allocated once, a row each.

Sequences that write lie in the first rows, so that a step reads them in place, without a copy: where one ends, the last
is moved into its row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.model.transformer import TransformerConfig


class Slots:
    """The cache of all rows.

    Args:
        config: of the model that fills it.
        rows: sequences that it can hold.
        capacity: most tokens of each.
    """

    def __init__(self, config: TransformerConfig, rows: int, capacity: int, device: torch.device, dtype: torch.dtype):
        shape = (config.layers, rows, config.key_value_heads, capacity, config.width_of_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.rows, self.capacity = rows, capacity

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of one row over those of another."""
        for state in (self.keys, self.values):
            state[:, target, :, :length].copy_(state[:, source, :, :length])


class NextTokens:
    """What a step sees of the first rows: each gets one token behind those it has.

    Args:
        lengths: tokens that each row holds.
    """

    def __init__(self, slots: Slots, lengths: list[int]):
        device = slots.keys.device
        self._slots, self._count, self._end = slots, len(lengths), max(lengths) + 1
        self.lengths_B = torch.tensor(lengths, device=device)
        self._rows = torch.arange(self._count, device=device)
        self.mask: Tensor | None = None
        if min(lengths) != max(lengths):
            self.mask = (torch.arange(self._end, device=device) <= self.lengths_B.unsqueeze(1))[:, None, None, :]

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the tokens, (B, 1)."""
        assert tokens == 1
        return self.lengths_B.unsqueeze(1)

    def extend(self, layer: int, keys_BHTK: Tensor, values_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values behind those of their rows; return all of them, in place."""
        keys, values = self._slots.keys[layer, : self._count], self._slots.values[layer, : self._count]
        keys[self._rows, :, self.lengths_B] = keys_BHTK[:, :, 0]
        values[self._rows, :, self.lengths_B] = values_BHTK[:, :, 0]
        return keys[:, :, : self._end], values[:, :, : self._end]

    def advance(self, tokens: int) -> None:
        """Do nothing: the engine counts."""


class Passage:
    """What reading a passage of a prompt sees: one row, from `start` on."""

    mask: Tensor | None = None

    def __init__(self, slots: Slots, row: int, start: int):
        self._slots, self._row, self._start = slots, row, start

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the passage, (T,)."""
        return torch.arange(self._start, self._start + tokens, device=self._slots.keys.device)

    def extend(self, layer: int, keys_BHTK: Tensor, values_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values; return those of the row so far, in place."""
        row, end = slice(self._row, self._row + 1), self._start + keys_BHTK.shape[2]
        keys, values = self._slots.keys[layer, row], self._slots.values[layer, row]
        keys[:, :, self._start : end] = keys_BHTK
        values[:, :, self._start : end] = values_BHTK
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Do nothing: the engine counts."""
