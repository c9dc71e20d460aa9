"""What activation checkpointing keeps of a block for the backward pass, and what it works out again.

Beside all or nothing there is a way between (Korthikanti et al. 2022, "Reducing activation recomputation in large
transformer models"): what matrix products and attention give is kept, which is dear to work out and small; norms,
rotations, activation functions and their products are worked out again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts, noop_context_fn

from data_pipeline.foundation.errors import UserError

BLOCKS, CHEAP = "blocks", "cheap"
KINDS = (BLOCKS, CHEAP)
Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def check_recomputed(kind: str) -> None:
    """Raise UserError for a way to recompute that there isn't."""
    if kind not in KINDS:
        raise UserError(f"recomputed={kind}: there are {' and '.join(KINDS)}")


def recomputation(kind: str) -> Contexts:
    """Return what `torch.utils.checkpoint` shall work in, in the forward pass and when it works out again."""
    if kind == BLOCKS:
        return noop_context_fn
    aten = torch.ops.aten
    kept = [
        *(aten.mm.default, aten.addmm.default, aten.bmm.default),
        *(aten._scaled_dot_product_flash_attention_for_cpu.default, aten._scaled_dot_product_flash_attention.default),
        *(aten._scaled_dot_product_efficient_attention.default, aten._scaled_dot_product_cudnn_attention.default),
    ]
    return partial(create_selective_checkpoint_contexts, kept)
