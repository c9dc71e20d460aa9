"""Structured pruning: whole layers, heads and channels that matter least are left out, and what is left is smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from train.compress.calibration import ROWS, Calibration
from train.model.attention import rotary_table
from train.model.feed_forward import FeedForward
from train.model.transformer import Block, Transformer, TransformerConfig


@dataclass(frozen=True)
class Importance:
    """What a model's parts do on the calibration text.

    Args:
        blocks: (layers,) block influence: 1 - the mean cosine between what a block is given and what it puts out
            (Men et al. 2024, ShortGPT).
        channels: (layers, hidden width) mean |activation| of each channel of the feed-forward layer.
        heads: (layers, groups) mean length of what each group of heads with common keys puts out
            (both Muralidharan et al. 2024, Minitron).
    """

    blocks: Tensor
    channels: Tensor
    heads: Tensor


@torch.no_grad()
def measure_importance(model: Transformer, calibration: Calibration) -> Importance:
    """Lead the calibration text through the model once and measure its parts."""
    config = model.config
    device = model.norm.weight.device
    blocks = torch.zeros(config.layers, device=device)
    channels = torch.zeros(config.layers, config.hidden_width, device=device)
    heads = torch.zeros(config.layers, config.key_value_heads, device=device)
    positions = torch.arange(calibration.tokens.shape[1], device=device)
    rotary = rotary_table(positions, config.width_of_head, config.rotary_theta)
    for tokens in calibration.tokens.split(ROWS):
        hidden = model.embedding(tokens.to(device))
        for number, block in enumerate(model.blocks):
            assert isinstance(block, Block)

            def see_channels(_: object, inputs: tuple[Tensor], number: int = number) -> None:
                channels[number] += inputs[0].abs().sum(dim=(0, 1))

            def see_heads(_: object, inputs: tuple[Tensor], number: int = number) -> None:
                grouped = inputs[0].unflatten(2, (config.key_value_heads, -1))
                heads[number] += grouped.norm(dim=3).sum(dim=(0, 1))

            handles = [
                cast(FeedForward, block.feed_forward).down.register_forward_pre_hook(see_channels),
                block.attention.output.register_forward_pre_hook(see_heads),
            ]
            output, _ = block(hidden, rotary)
            for handle in handles:
                handle.remove()
            blocks[number] += (1 - cosine_similarity(hidden, output, dim=2)).sum()
            hidden = output
    count = calibration.tokens.numel()
    return Importance(blocks / count, channels / count, heads / count)


def without_layers(
    config: TransformerConfig, parameters: dict[str, Tensor], importance: Importance, removed: int
) -> tuple[TransformerConfig, dict[str, Tensor], list[int]]:
    """Return a model without the blocks that change their inputs least; also which those were."""
    order = torch.argsort(importance.blocks, stable=True)[:removed]
    gone = sorted(order.tolist())
    kept = [layer for layer in range(config.layers) if layer not in gone]
    places = {old: new for new, old in enumerate(kept)}
    left = {}
    for name, values in parameters.items():
        if not name.startswith("blocks."):
            left[name] = values
            continue
        _, layer, rest = name.split(".", 2)
        if int(layer) in places:
            left[f"blocks.{places[int(layer)]}.{rest}"] = values
    return replace(config, layers=len(kept)), left, gone


def narrowed(
    config: TransformerConfig, parameters: dict[str, Tensor], importance: Importance, hidden_width: int, groups: int
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Return a model with the channels and groups of heads that do most, in their order, in each layer.

    Args:
        hidden_width: channels that stay.
        groups: of heads with common keys and values, that stay.
    """
    head, per_group = config.width_of_head, config.heads // config.key_value_heads
    left = dict(parameters)
    for layer in range(config.layers):
        path = f"blocks.{layer}."
        channels = _largest(importance.channels[layer], hidden_width)
        kept = _largest(importance.heads[layer], groups)
        keys = _expanded(kept, head)
        queries = _expanded(kept, head * per_group)
        for name, rows in (
            ("feed_forward.gate", channels),
            ("feed_forward.up", channels),
            ("attention.query", queries),
            ("attention.key", keys),
            ("attention.value", keys),
        ):
            for kind in ("weight", "bias"):
                if (full := f"{path}{name}.{kind}") in left:
                    left[full] = left[full][rows]
        left[f"{path}feed_forward.down.weight"] = left[f"{path}feed_forward.down.weight"][:, channels]
        left[f"{path}attention.output.weight"] = left[f"{path}attention.output.weight"][:, queries]
    smaller = replace(
        config, hidden_width=hidden_width, heads=groups * per_group, key_value_heads=groups, head_width=head
    )
    return smaller, left


def _largest(scores: Tensor, count: int) -> Tensor:
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def _expanded(groups: Tensor, width: int) -> Tensor:
    """Return the rows of groups of so many rows each."""
    return (groups.unsqueeze(1) * width + torch.arange(width, device=groups.device)).flatten()
