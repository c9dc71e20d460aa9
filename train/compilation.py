"""`compile=true`: the model, or its blocks, as compiled graphs (Ansel et al. 2024, PyTorch 2), kept between runs.

`compiled=blocks`: one block is compiled, and its code serves them all, whatever the batch and the length of its
sequences. What DeepSpeed hooks onto modules stays outside: at ZeRO stage 3 a block's weights are gathered before its
graph begins, not one by one within. On a CPU attention within documents, whose lengths differ in every batch, is called
from between four graphs; on a GPU the loss's passes over a chunk of logits are fused, too.

`compiled=model`: all in one graph, from embedding to loss. It can fuse across blocks, and takes as much longer to
compile as there are blocks. `compiled=deepcompile`: DeepSpeed puts into that graph what ZeRO sends (Tanaka et al. 2025,
DeepCompile): when each weight is there and when each gradient goes. The gradient of a weight that two graphs used, or
none, would not be summed rightly there, so there may be but one.

What is computed without gradients, validation and samples, goes the uncompiled way.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch

from data_pipeline.foundation.cache import cache_folder
from data_pipeline.foundation.configuration import first_on
from data_pipeline.foundation.errors import UserError
from train.model.attention import attend_within_documents
from train.model.transformer import Block, Transformer

BLOCKS, MODEL, DEEPCOMPILE = "blocks", "model", "deepcompile"
STAGES = {BLOCKS: (0, 1, 2, 3), MODEL: (0, 1, 2), DEEPCOMPILE: (1, 2, 3)}
"""What can be compiled, at which stages of ZeRO."""


def check_compiler() -> None:
    """Refuse to compile where nothing can.

    Raises:
        UserError: names what is missing and how to get it.
    """
    name = os.environ.get("CC", "gcc") if torch.cuda.is_available() else os.environ.get("CXX", "g++")
    missing = "" if shutil.which(name) else f"the compiler {name}"
    if not missing and not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing = "Python.h, the headers of this Python"
    if missing:
        raise UserError(
            f"compile=true needs {missing}, which is not here: install it (Debian: apt-get install g++ python3-dev), "
            "or leave compile out; the same is then computed uncompiled"
        )


def check_compile(wanted: bool, kind: str, stage: int, lora_rank: int | None, untried: Mapping[str, object]) -> None:
    """Refuse what can't be compiled, for want of a compiler or for what it is.

    Args:
        kind: what is compiled.
        untried: settings that it was never tried with, each with whether it is on.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    if kind not in STAGES:
        raise UserError(f"compiled={kind}: there are {', '.join(STAGES)}")
    if not wanted:
        if kind != BLOCKS:
            raise UserError(f"compiled={kind} says what compile=true compiles: add that, or leave this out")
        return
    if setting := first_on(untried):
        told = "compile=true" if kind == BLOCKS else f"compiled={kind}"
        raise UserError(f"{told} with {setting} was never tried: leave one of them out")
    if stage not in STAGES[kind]:
        fitting = [other for other, stages in STAGES.items() if stage in stages]
        why = (
            "there is nothing of ZeRO's to put into the graph" if stage == 0 else "weights are gathered between graphs"
        )
        raise UserError(f"compiled={kind} with zero={stage}: {why}; use compiled={' or '.join(fitting)}")
    if stage == 3 and lora_rank:
        raise UserError(
            "compile=true with lora.rank and zero=3: DeepSpeed would take the adapters' gradients of the first block, "
            "whose input needs none, before they are there; use zero=0, 1 or 2, or leave compile out"
        )
    check_compiler()


def check_one_graph(kind: str, between: Mapping[str, object]) -> None:
    """Refuse what a graph of the whole model can't hold.

    Args:
        between: settings that need Python in the middle of a forward pass, each with whether it is on.

    Raises:
        UserError: names the setting.
    """
    if kind != BLOCKS and (setting := first_on(between)):
        raise UserError(f"compiled={kind} with {setting}: that isn't one graph; use compiled={BLOCKS}")


def check_device(kind: str) -> None:
    """Refuse, on the machine that is to train, what its device can't run. Raises UserError."""
    if kind != DEEPCOMPILE:
        return
    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise UserError(f"compiled={DEEPCOMPILE} needs an NVIDIA GPU, and there is none here: use compiled={BLOCKS}")
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        raise UserError(
            f"compiled={DEEPCOMPILE} needs nvcc, with which DeepSpeed builds a part of it once: install the CUDA "
            f"toolkit and set CUDA_HOME, or use compiled={BLOCKS}"
        )


def keep_between_runs() -> None:
    """Let what is compiled be found again by the next process."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


def compile_blocks(model: Transformer) -> None:
    """Let the blocks run as compiled graphs from their next call with gradients on."""
    keep_between_runs()
    # On a CPU the loss is worked out in place, in the memory of its logits, which no graph would do.
    model.head.fused = torch.cuda.is_available()
    for block in cast(Iterable[Block], model.blocks):
        if not torch.cuda.is_available():
            block.attention.within_documents = torch.compiler.disable(attend_within_documents)
        block.forward = _with_gradients_compiled(block.forward)  # type: ignore[method-assign]


def compile_model(model: Transformer) -> None:
    """Let the whole model run as one graph from its next call with gradients on."""
    keep_between_runs()
    model.forward = _with_gradients_compiled(model.forward, fullgraph=True)  # type: ignore[method-assign]


def uncompiled() -> AbstractContextManager[Any]:
    """Let what is compiled be computed as it is written, operation by operation."""
    return cast(AbstractContextManager[Any], torch.compiler.set_stance("force_eager"))


def compile_seconds() -> float:
    """Return how long compiling has taken in this process until now."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent()["total_wall_time"])


def _with_gradients_compiled(eager: Callable[..., Any], fullgraph: bool = False) -> Callable[..., Any]:
    compiled = torch.compile(eager, dynamic=True, fullgraph=fullgraph)

    def forward(*inputs: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else eager)(*inputs, **named)

    return forward
