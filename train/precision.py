"""The number format of a run, and which formats this machine is fast in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""What is kept in memory; fp8 is a way to multiply what is bf16."""


@dataclass
class PrecisionConfig:
    """What weights, activations and gradients are computed in; master weights and moments are always float32.

    Args:
        kind: `fp32`, `bf16`, `fp16`, or `fp8`, which is bf16 whose products in linear layers are of 8-bit floats.
        initial_scale_power: fp16's loss scale starts at 2 to this power and adapts.
    """

    kind: str = "fp32"
    initial_scale_power: int = 16
