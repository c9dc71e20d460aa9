"""Initial weights as a function of (seed, name, shape) alone: the same at every ZeRO stage and world size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from data_pipeline.foundation.files import text_hash
from train.model.transformer import TransformerConfig

RESIDUAL_OUTPUTS = ("attention.output.weight", "feed_forward.down.weight", "experts.down", "shared_expert.down.weight")
ADAPTER_OUTPUTS = "adapter.up"
HEAD_AND_EMBEDDING = ("embedding.weight", "head.weight")
LAST_NORM = "norm.weight"


def initialise_weights(model: nn.Module, config: TransformerConfig, seed: int) -> None:
    """Set every parameter of a whole (not partitioned) model."""
    for name, parameter in model.named_parameters():
        initialise_parameter(name, parameter.data, config, seed)


def initialise_parameter(
    name: str, weight: Tensor, config: TransformerConfig, seed: int, base_width: int | None = None
) -> None:
    """Set one parameter in place: norms to 1, biases to 0, matrices to a normal distribution around 0.

    Adapters begin without effect: what leads out of one is 0.

    The deviation is √(2 / (5 · width)) (Nguyen and Salazar 2019), so that logits start at the same small size for every
    width; what is added to the residual stream is divided by √(2 · layers) (Radford et al. 2019).

    Args:
        base_width: whose deviation embedding and head have for every width (`train/optimizer.py` says why); the last
            norm's gain then begins at base width / width.
    """
    if weight.dim() == 0 or weight.numel() == 0:
        raise ValueError(f"{name} has no elements here: gather a partitioned parameter before it is initialised")
    if name.endswith(ADAPTER_OUTPUTS):
        weight.zero_()
        return
    if weight.dim() == 1:
        gain = (base_width or config.width) / config.width if name == LAST_NORM else 1.0
        weight.fill_(0.0 if name.endswith("bias") else gain)
        return
    width = base_width if base_width and name in HEAD_AND_EMBEDDING else config.width
    deviation = math.sqrt(2 / (5 * width))
    if name.endswith(RESIDUAL_OUTPUTS):
        deviation /= math.sqrt(2 * config.layers)
    generator = torch.Generator(device=weight.device).manual_seed(int(text_hash(f"{seed} {name}")[:15], 16))
    values = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    weight.copy_(values.normal_(0.0, deviation, generator=generator))
