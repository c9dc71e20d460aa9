"""Sequences shared by several ranks, each of which holds an equal part of every one's tokens.

All that works on a token by itself needs nothing for that. Attention looks at whole sequences: an all-to-all turns a
rank's part of the tokens with all heads into all tokens with its part of the heads, and another one turns the result
back (Jacobs et al. 2023, DeepSpeed Ulysses). Each moves no more than a rank's own part, however many ranks there are.

Shape suffixes: B sequences, T tokens of a whole sequence, t of this rank's part, H heads, h of this rank's part, K
width of a head, N ranks that share a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor


@dataclass(frozen=True)
class SharedSequence:
    """The ranks that share sequences with this one.

    Args:
        number: which part of a sequence is this rank's.
        ranks: N.
    """

    group: distributed.ProcessGroup
    number: int
    ranks: int

    def part(self, whole_BT: Tensor) -> Tensor:
        """Return this rank's part of the tokens, (B, t)."""
        return whole_BT.chunk(self.ranks, dim=1)[self.number]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks, without a gradient."""
        values = values.detach().clone()
        distributed.all_reduce(values, group=self.group)
        return values

    @torch.compiler.disable
    def by_heads(self, *all_heads: Tensor) -> tuple[Tensor, ...]:
        """Turn tensors (B, H, t, K), of any numbers of heads that N divides, into (B, h, T, K), in one exchange."""
        heads = [each.shape[1] // self.ranks for each in all_heads]
        sent_NBhtK = torch.cat([each.unflatten(1, (self.ranks, -1)) for each in all_heads], dim=2).movedim(1, 0)
        whole_BhTK = _Exchange.apply(sent_NBhtK, self.group).movedim(0, 2).flatten(2, 3)
        return whole_BhTK.split(heads, dim=1)

    @torch.compiler.disable
    def by_tokens(self, own_BhTK: Tensor) -> Tensor:
        """Turn (B, h, T, K) back into (B, H, t, K)."""
        sent_NBhtK = own_BhTK.unflatten(2, (self.ranks, -1)).movedim(2, 0)
        return _Exchange.apply(sent_NBhtK, self.group).movedim(0, 1).flatten(1, 2)


class _Exchange(torch.autograd.Function):
    """Slice n of the first dimension goes to rank n; what comes from rank n is slice n. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchanged(sent, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _exchanged(gradient, ctx.group), None


def _exchanged(sent: Tensor, group: distributed.ProcessGroup) -> Tensor:
    sent = sent.contiguous()
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent, group=group)
    return received
