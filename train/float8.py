"""`precision=fp8`: the products of the blocks' linear layers in 8-bit floats (Micikevicius et al. 2022), by torchao.

Weights, gradients and all between the products stay bfloat16, master weights and moments float32. Inputs, weights and
gradients are scaled, each row by its own largest value, as they come. Embedding, head and loss stay in 16 bits, for
rounding them costs most, and so do experts, whose products are grouped.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from data_pipeline.foundation.errors import UserError
from train.model.layers import Linear
from train.model.transformer import Transformer

FACTOR = 16
"""Both widths of a matrix must divide by it, and a micro-batch's tokens, which gradients of weights are summed over."""
CAPABILITY = (8, 9)
"""Of an NVIDIA GPU: Ada and Hopper are the first with units for such products."""


def check_float8(stage: int, recomputes_blocks: bool, others: dict[str, object]) -> None:
    """Refuse what 8-bit products can't be had with.

    Args:
        recomputes_blocks: activation checkpointing of whole blocks.
        others: settings that give linear layers another product, as far as they are on.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    if importlib.util.find_spec("torchao") is None:
        raise UserError("precision=fp8 needs torchao, which is not here: pip install 'headrace[fp8]'")
    if stage == 3 and not recomputes_blocks:
        raise UserError(
            "precision=fp8 with zero=3 needs activation_checkpointing=true: the gathered weights of all blocks would "
            "else be kept for the backward pass; or use zero=1 or 2"
        )
    for key, value in others.items():
        raise UserError(f"precision=fp8 with {key}={value}: both change how weights are multiplied; leave one out")
    if torch.cuda.is_available() and torch.version.hip is None and torch.cuda.get_device_capability() < CAPABILITY:
        raise UserError(
            f"precision=fp8: {torch.cuda.get_device_name()} has no units for 8-bit floats, which NVIDIA's GPUs have "
            "since Ada and Hopper: use precision=bf16"
        )


def check_float8_tokens(micro: int, lengths: Iterable[int]) -> None:
    """Refuse micro-batches whose tokens don't divide, at any of a run's lengths of sequences. Raises UserError."""
    for length in lengths:
        if micro * length % FACTOR:
            raise UserError(
                f"precision=fp8: the {micro * length} tokens of a micro-batch, {micro} sequences of {length}, must "
                f"divide by {FACTOR}: change batch.micro or data.sequence_length"
            )


def multiply_in_float8(model: Transformer) -> None:
    """Let the linear layers of blocks multiply in 8-bit floats; without a GPU the rounding is emulated.

    Weights stay the same parameters under the same names, so checkpoints know nothing of it.
    """
    # Of kernels for other GPUs than this machine's it tells at every import.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    rowwise = Float8LinearConfig.from_recipe_name("rowwise")
    settings = replace(rowwise, emulate=not torch.cuda.is_available())
    for block in model.blocks:
        convert_to_float8_training(cast(nn.Module, block), config=settings, module_filter_fn=_divides)


def _divides(module: nn.Module, _: str) -> bool:
    # Exactly linear layers: a router, which is one too, chooses experts in float32.
    if type(module) is not Linear:
        return False
    return module.in_features % FACTOR == 0 and module.out_features % FACTOR == 0
