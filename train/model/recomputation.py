"""What activation checkpointing keeps of a block for the backward pass, and what it works out again.

Beside all or nothing there is a way between (Korthikanti et al. 2022, "Reducing activation recomputation in large
transformer models"): what matrix products and attention give is kept, which is dear to work out and small; norms,
rotations, activation functions and their products are worked out again. And there is one beyond all: the inputs of
blocks, which are kept even then, wait in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from data_pipeline.foundation.errors import UserError

BLOCKS, CHEAP, HOST = "blocks", "cheap", "host"
KINDS = (BLOCKS, CHEAP, HOST)


@dataclass(frozen=True)
class Recomputation:
    """One of these ways.

    Args:
        options: of `torch.utils.checkpoint`: contexts for the forward pass and for what is worked out again.
        keeping: what a block's input is kept in.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    keeping: Callable[[], AbstractContextManager[Any]] = nullcontext


def check_recomputed(kind: str) -> None:
    """Raise UserError for a way to recompute that there isn't."""
    if kind not in KINDS:
        raise UserError(f"recomputed={kind}: there are {', '.join(KINDS)}")


def recomputation(kind: str) -> Recomputation:
    """Return the way of a name."""
    if kind == BLOCKS:
        return Recomputation()
    if kind == HOST:
        return Recomputation(keeping=partial(save_on_cpu, pin_memory=True))
    aten = torch.ops.aten
    kept = [
        *(aten.mm.default, aten.addmm.default, aten.bmm.default),
        *(aten._scaled_dot_product_flash_attention_for_cpu.default, aten._scaled_dot_product_flash_attention.default),
        *(aten._scaled_dot_product_efficient_attention.default, aten._scaled_dot_product_cudnn_attention.default),
    ]
    return Recomputation({"context_fn": partial(create_selective_checkpoint_contexts, kept)})
