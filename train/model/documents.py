"""Several documents in one sequence: where each ends, what may look at what, and positions that begin anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DocumentEnds = Sequence[Sequence[int]]
"""Per sequence, the exclusive end of each document in it, ascending; the last one is T."""


@dataclass(frozen=True)
class Documents:
    """The documents of a batch, laid out once for all layers.

    Args:
        ends: per sequence.
        numbers_BT: which document of its sequence a token belongs to.
        positions_BT: how far into its document it is.
        by_length: the documents side by side, those of a length together; on CPUs alone.
        block_mask: for flex attention; on GPUs alone.
    """

    ends: DocumentEnds
    numbers_BT: Tensor
    positions_BT: Tensor
    by_length: ByLength | None = None
    block_mask: Any = None


@dataclass(frozen=True)
class ByLength:
    """All documents of a batch in order of their lengths, so that those of one length are one array.

    Args:
        order: (B · T,) which token of the batch comes when; None where they come as they are.
        back: (B · T,) where each token of the batch has come to.
        groups: how many documents there are of which length, (documents, length), ascending.
    """

    order: Tensor | None
    back: Tensor
    groups: list[tuple[int, int]]


def lay_out(ends: DocumentEnds, device: torch.device) -> Documents:
    """Lay out the documents of a batch."""
    tokens = ends[0][-1]
    lengths = [torch.tensor([stop - start for start, stop in zip((0, *row[:-1]), row)]) for row in ends]
    numbers_BT = torch.stack([torch.arange(len(each)).repeat_interleave(each) for each in lengths])
    starts_BT = torch.stack([(each.cumsum(0) - each).repeat_interleave(each) for each in lengths])
    positions_BT = torch.arange(tokens) - starts_BT
    numbers_BT, positions_BT = (each.to(device, non_blocking=True) for each in (numbers_BT, positions_BT))
    if device.type == "cuda":
        return Documents(ends, numbers_BT, positions_BT, block_mask=flex_mask(numbers_BT))
    return Documents(ends, numbers_BT, positions_BT, by_length=_by_length(torch.cat(lengths)))


def _by_length(lengths: Tensor) -> ByLength:
    """Order documents that lie one behind the other, given their lengths."""
    found, counts = lengths.unique(return_counts=True)
    groups = list(zip(counts.tolist(), found.tolist()))
    order = lengths.repeat_interleave(lengths).argsort(stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return ByLength(order if bool((lengths.diff() < 0).any()) else None, back, groups)


def may_look(numbers_BT: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the rule of flex attention: a token sees its own document, up to itself."""

    def rule(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (numbers_BT[sequence, query] == numbers_BT[sequence, key]) & (query >= key)

    return rule


def flex_mask(numbers_BT: Tensor) -> Any:
    """Return the blocks of 128 × 128 positions in which anything may be looked at; the others cost nothing."""
    from torch.nn.attention.flex_attention import create_block_mask

    sequences, tokens = numbers_BT.shape
    return create_block_mask(may_look(numbers_BT), sequences, None, tokens, tokens, device=numbers_BT.device)


@functools.cache
def flex_attention() -> Callable[..., Tensor]:
    """Return flex attention as one fused kernel; without compilation it would hold all T × T scores."""
    from torch.nn.attention.flex_attention import flex_attention as eager

    return torch.compile(eager, dynamic=False)
