"""`compile=true`: the blocks of the model as compiled graphs (Ansel et al. 2024, PyTorch 2), kept between runs.

One block is compiled, and its code serves them all, whatever the batch and the length of its sequences. What DeepSpeed
hooks onto modules stays outside: at ZeRO stage 3 a block's weights are gathered before its graph begins, not one by one
within. On a CPU attention within documents, whose lengths differ in every batch, is called from between four graphs; on
a GPU the loss's passes over a chunk of logits are fused, too. What is computed without gradients, validation and
samples, goes the uncompiled way.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from data_pipeline.foundation.cache import cache_folder
from data_pipeline.foundation.errors import UserError
from train.model.attention import attend_within_documents
from train.model.transformer import Block, Transformer


def check_compiler(wanted: bool) -> None:
    """Refuse to compile where nothing can.

    Raises:
        UserError: names what is missing and how to get it.
    """
    if not wanted:
        return
    name = os.environ.get("CC", "gcc") if torch.cuda.is_available() else os.environ.get("CXX", "g++")
    missing = "" if shutil.which(name) else f"the compiler {name}"
    if not missing and not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing = "Python.h, the headers of this Python"
    if missing:
        raise UserError(
            f"compile=true needs {missing}, which is not here: install it (Debian: apt-get install g++ python3-dev), "
            "or leave compile out; the same is then computed uncompiled"
        )


def check_compile(
    wanted: bool, stage: int, lora_rank: int | None, experts: int, sequence_ranks: int, tensor_ranks: int
) -> None:
    """Raise UserError where blocks can't be compiled: for want of a compiler, or for what they are."""
    check_compiler(wanted)
    if wanted and (experts or max(sequence_ranks, tensor_ranks) > 1):
        parallel = f"parallel.sequence={sequence_ranks}" if sequence_ranks > 1 else f"parallel.tensor={tensor_ranks}"
        what = f"model.experts={experts}" if experts else parallel
        raise UserError(f"compile=true with {what} was never tried: leave compile out")
    if wanted and stage == 3 and lora_rank:
        raise UserError(
            "compile=true with lora.rank and zero=3: DeepSpeed would take the adapters' gradients of the first block, "
            "whose input needs none, before they are there; use zero=0, 1 or 2, or leave compile out"
        )


def compile_blocks(model: Transformer) -> None:
    """Let the blocks run as compiled graphs from their next call with gradients on."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    # On a CPU the loss is worked out in place, in the memory of its logits, which no graph would do.
    model.head.fused = torch.cuda.is_available()
    for block in cast(Iterable[Block], model.blocks):
        if not torch.cuda.is_available():
            block.attention.within_documents = torch.compiler.disable(attend_within_documents)
        block.forward = _with_gradients_compiled(block.forward)  # type: ignore[method-assign]


def compile_seconds() -> float:
    """Return how long compiling has taken in this process until now."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent()["total_wall_time"])


def _with_gradients_compiled(eager: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(eager, dynamic=True)

    def forward(x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Any = None, cache: Any = None) -> Any:
        if cache is not None or not torch.is_grad_enabled():
            return eager(x_BTD, rotary, documents, cache)
        return compiled(x_BTD, rotary, documents)

    return forward
