"""Our Transformer for inference alone: the same sums in fewer and larger operations.

Queries, keys and values come from one matrix, gate and up from another, norms are folded into the matrix behind them,
and on a CPU oneDNN lays the weights out once as it wants to read them. Rotary positions are one complex product: the
pairs that turn against each other are laid side by side, in queries and keys alike, so that their products stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from train.model.attention import attend
from train.model.feed_forward import FeedForward
from train.model.layers import Linear
from train.model.transformer import Block, Transformer
from train.serve.slots import NextTokens, Passage

Forward = Callable[[Tensor, "NextTokens | Passage", Tensor], Tensor]
"""From tokens (B, T), their cache and the positions (N,) in B · T that are wanted to logits (N, vocabulary)."""


def forward_of(model: Transformer) -> Forward:
    """Return the fastest way to compute a model: fused, or as it is where its layers are no plain matrices."""
    plain = not model.config.experts and all(
        type(module) is Linear and module.adapter is None
        for block in model.blocks
        for name, module in block.named_modules()
        if name.split(".")[-1] in ("query", "key", "value", "output", "gate", "up", "down")
    )
    if plain and model.norm.weight.is_floating_point():
        return Decoder(model)

    def forward(tokens_BT: Tensor, cache: NextTokens | Passage, wanted_N: Tensor) -> Tensor:
        head = model(tokens_BT, cache=cache, output=lambda hidden_ND, weight_VD: hidden_ND[wanted_N] @ weight_VD.t())
        return head.float()

    return forward


def packed(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Return x ↦ x · weightᵀ + bias for (N, inputs), with the weight laid out for it."""
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
        product = torch.ops.mkldnn._linear_pointwise
        return lambda x: product(x, laid_out, bias, "none", [], "")
    weight = weight.contiguous()
    return lambda x: linear(x, weight, bias)


class Layer:
    """One block."""

    def __init__(self, block: Block):
        attention, feed = block.attention, cast(FeedForward, block.feed_forward)
        self.heads, self.key_heads, self.width = attention.heads, attention.key_value_heads, attention.head_width
        self.epsilon = block.attention_norm.eps
        matrices = [beside(attention.query, self.width), beside(attention.key, self.width), plain(attention.value)]
        before = block.attention_norm.weight
        self.qkv = packed(torch.cat([weight for weight, _ in matrices]) * before, joined([b for _, b in matrices]))
        self.output = packed(*plain(attention.output))
        before = block.feed_forward_norm.weight
        gate, up = plain(feed.gate), plain(feed.up)
        self.gate_up = packed(torch.cat((gate[0], up[0])) * before, joined([gate[1], up[1]]))
        self.down = packed(*plain(feed.down))
        self.norms: Tensor | None = None
        if attention.query_norm is not None and attention.key_norm is not None:
            query, key = (pairs(norm.weight, self.width) for norm in (attention.query_norm, attention.key_norm))
            self.norms = torch.cat((query.expand(self.heads, -1), key.expand(self.key_heads, -1)))

    def forward(
        self, x_ND: Tensor, shape: tuple[int, int], turns: Tensor, layer: int, cache: NextTokens | Passage
    ) -> Tensor:
        (batch, tokens), width = shape, self.width
        mixed = self.qkv(rms_norm(x_ND, x_ND.shape[-1:], None, self.epsilon))
        rotated = (self.heads + self.key_heads) * width
        both = mixed[:, :rotated].reshape(-1, self.heads + self.key_heads, width)
        if self.norms is not None:
            both = rms_norm(both, (width,), None, self.epsilon) * self.norms
        both = torch.view_as_complex(both.float().view(*both.shape[:2], width // 2, 2)) * turns
        both = torch.view_as_real(both).flatten(2).to(x_ND.dtype).view(batch, tokens, -1, width).transpose(1, 2)
        query, key = both[:, : self.heads], both[:, self.heads :]
        value = mixed[:, rotated:].view(batch, tokens, self.key_heads, width).transpose(1, 2)
        keys, values = cache.extend(layer, key, value)
        if tokens == 1:
            # Heads that share keys are queries at one place: nothing is repeated.
            grouped = query.reshape(batch, self.key_heads, -1, width)
            attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=cache.mask).view(batch, -1)
        else:
            attended = attend(query, keys, values).transpose(1, 2).reshape(batch * tokens, -1)
        x_ND = x_ND + self.output(attended)
        gate, up = self.gate_up(rms_norm(x_ND, x_ND.shape[-1:], None, self.epsilon)).chunk(2, dim=-1)
        return x_ND + self.down(silu(gate) * up)


class Decoder:
    """A `Forward`. The model's own layers may be dropped afterwards: nothing here refers to them but the embedding."""

    def __init__(self, model: Transformer):
        config = model.config
        self.embedding = model.embedding.weight.detach()
        with torch.inference_mode():
            self.layers = [Layer(cast(Block, block)) for block in model.blocks]
            self.head = packed(model.head.weight * model.norm.weight)
        self.epsilon = model.norm.eps
        exponents = torch.arange(0, config.width_of_head, 2, dtype=torch.float32) / config.width_of_head
        angles = torch.arange(config.maximum_length).float().unsqueeze(-1) * config.rotary_theta**-exponents
        self.turns = torch.polar(torch.ones_like(angles), angles).to(self.embedding.device)

    def __call__(self, tokens_BT: Tensor, cache: NextTokens | Passage, wanted_N: Tensor) -> Tensor:
        turns = self.turns[cache.positions(tokens_BT.shape[1]).flatten()].unsqueeze(1)
        x_ND = self.embedding[tokens_BT.flatten()]
        shape = (tokens_BT.shape[0], tokens_BT.shape[1])
        for number, layer in enumerate(self.layers):
            x_ND = layer.forward(x_ND, shape, turns, number, cache)
        if len(wanted_N) != len(x_ND):
            x_ND = x_ND[wanted_N]
        return self.head(rms_norm(x_ND, x_ND.shape[-1:], None, self.epsilon)).float()


def pairs(x: Tensor, width: int) -> Tensor:
    """Lay side by side what rotary positions turn against each other: the two halves of each head."""
    return x.view(-1, 2, width // 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def beside(layer: Linear, width: int) -> tuple[Tensor, Tensor | None]:
    return pairs(layer.weight.detach(), width), None if layer.bias is None else pairs(layer.bias.detach(), width)


def plain(layer: Linear) -> tuple[Tensor, Tensor | None]:
    return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()


def joined(biases: list[Tensor | None]) -> Tensor | None:
    there = [bias for bias in biases if bias is not None]
    return torch.cat(there) if there else None
