"""Causal self-attention with grouped queries, rotary positions, a key-value cache and document boundaries.

Shape suffixes: B sequences, T tokens, S tokens attended to, H heads, K width of a head, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from train.model.documents import Documents, flex_attention
from train.model.layers import Linear, RMSNorm
from train.model.split_layers import SplitLayers, parts_of

if TYPE_CHECKING:
    from train.model.ragged_cache import RaggedCache
    from train.model.shared_sequence import SharedSequence
    from train.model.transformer import TransformerConfig


class KeyValueCache:
    """Keys and values of the tokens seen so far, so that generating a token costs one position.

    Args:
        config: of the model that will fill it.
        sequences: B.
        length: most tokens that it can hold.
    """

    def __init__(
        self, config: TransformerConfig, sequences: int, length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.layers, sequences, config.key_value_heads, length, config.width_of_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0
        self.capacity = length
        self.mask: Tensor | None = None

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the next tokens, (T,)."""
        return torch.arange(self.length, self.length + tokens, device=self.keys.device)

    def extend(self, layer: int, keys_BHTK: Tensor, values_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values of one layer behind the earlier ones; return all of them."""
        end = self.length + keys_BHTK.shape[2]
        self.keys[layer, :, :, self.length : end] = keys_BHTK
        self.values[layer, :, :, self.length : end] = values_BHTK
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count the tokens that all layers have written."""
        self.length += tokens


def rotary_table(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of rotary positions, (T, K) for positions (T,), (B, 1, T, K) for positions (B, T).

    Computed in float32 whatever the model's precision: bfloat16 can't tell position 257 from 258.
    Source: Su et al. 2021, RoFormer; the two halves of a head rotate against each other, as in Llama.
    """
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions.float().unsqueeze(-1) * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn queries or keys by their positions' angles."""
    if torch.compiler.is_compiling():
        first, second = x_BHTK.chunk(2, dim=-1)
        return x_BHTK * cosine + torch.cat((-second, first), dim=-1) * sine
    return _Rotation.apply(x_BHTK, cosine, sine)


class _Rotation(torch.autograd.Function):
    """Half the passes over memory that the formula takes as it is written; its gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x_BHTK: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turned(x_BHTK, cosine, sine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cosine, sine = ctx.saved_tensors
        return _turned(gradient, cosine, -sine), None, None


def _turned(x_BHTK: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x_BHTK.shape[-1] // 2
    turned = x_BHTK * cosine
    turned[..., :half].addcmul_(x_BHTK[..., half:], sine[..., :half], value=-1)
    turned[..., half:].addcmul_(x_BHTK[..., :half], sine[..., half:])
    return turned


class Attention(nn.Module):
    """One layer's attention. With `cache`, attends also to the tokens that came before.

    `within_documents` takes the place of `attend_within_documents` where that can't be part of a compiled graph.
    Where sequences are `shared`, it has a part of each, and attends to all of it; with a cache it has them whole.
    Where layers are `split`, it has a part of the heads.
    """

    def __init__(self, config: TransformerConfig, layer: int, split: SplitLayers | None = None):
        super().__init__()
        self.layer, self.split = layer, split
        self.heads, self.key_value_heads = config.heads // parts_of(split), config.key_value_heads // parts_of(split)
        self.head_width = config.width_of_head
        query_width, key_width = self.heads * self.head_width, self.key_value_heads * self.head_width
        self.query = Linear(config.width, query_width, bias=config.attention_bias)
        self.key = Linear(config.width, key_width, bias=config.attention_bias)
        self.value = Linear(config.width, key_width, bias=config.attention_bias)
        self.output = Linear(query_width, config.width, bias=config.attention_output_bias)
        self.query_norm = RMSNorm(self.head_width, eps=config.norm_epsilon) if config.query_key_norm else None
        self.key_norm = RMSNorm(self.head_width, eps=config.norm_epsilon) if config.query_key_norm else None
        for each in (self.output, self.query_norm, self.key_norm):
            if each is not None:
                each.split = split
        self.within_documents: Callable[..., Tensor] | None = None
        self.shared: SharedSequence | None = None

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        documents: Documents | None = None,
        cache: KeyValueCache | RaggedCache | None = None,
    ) -> Tensor:
        sequences, tokens, _ = x_BTD.shape
        if self.split is not None:
            x_BTD = self.split.entering(x_BTD)
        query = self.query(x_BTD).view(sequences, tokens, self.heads, self.head_width).transpose(1, 2)
        key = self.key(x_BTD).view(sequences, tokens, self.key_value_heads, self.head_width).transpose(1, 2)
        value = self.value(x_BTD).view(sequences, tokens, self.key_value_heads, self.head_width).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        shared = self.shared if cache is None else None
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        if shared is not None:
            query, key, value = shared.by_heads(query, key, value)
        if documents is not None:
            attended = (self.within_documents or attend_within_documents)(query, key, value, documents)
        elif cache is None:
            attended = attend_to_earlier(query, key, value)
        else:
            attended = attend(query, key, value, None if tokens > 1 else cache.mask)
        if shared is not None:
            attended = shared.by_tokens(attended)
        return self.output(attended.transpose(1, 2).reshape(sequences, tokens, -1))


def attend_to_earlier(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:
    """Causal attention of all positions of a sequence."""
    grouped = query_BHTK.shape[1] != key_BHTK.shape[1]
    return scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True, enable_gqa=grouped)


def attend(query_BHTK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, mask: Tensor | None = None) -> Tensor:
    """Causal attention of the last T of S positions to all that are not later than themselves, or to what a mask says.

    Args:
        mask: booleans that broadcast to (B, H, T, S).
    """
    tokens, attended = query_BHTK.shape[2], key_BHSK.shape[2]
    grouped = query_BHTK.shape[1] != key_BHSK.shape[1]
    if mask is None and 1 < tokens < attended:
        mask = torch.ones(tokens, attended, dtype=torch.bool, device=query_BHTK.device).tril(attended - tokens)
    return scaled_dot_product_attention(
        query_BHTK,
        key_BHSK,
        value_BHSK,
        attn_mask=mask,
        is_causal=mask is None and tokens == attended and tokens > 1,
        enable_gqa=grouped,
    )


def attend_within_documents(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, documents: Documents) -> Tensor:
    """Causal attention that never looks across the end of a document.

    On a CPU the documents of each length are one call, which skips the masked work: 3 times faster than a dense mask at
    four documents a sequence. On a GPU many small kernels would wait for their launches, so there flex attention does
    all in one.
    """
    if documents.by_length is None:
        grouped = query_BHTK.shape[1] != key_BHTK.shape[1]
        return flex_attention()(query_BHTK, key_BHTK, value_BHTK, block_mask=documents.block_mask, enable_gqa=grouped)
    sequences, heads, tokens, width = query_BHTK.shape
    layout = documents.by_length
    query, key, value = (_in_order(x, layout.order) for x in (query_BHTK, key_BHTK, value_BHTK))
    parts, start = [], 0
    for count, length in layout.groups:
        here = slice(start, start := start + count * length)
        group = (x[here].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value))
        parts.append(attend_to_earlier(*group).transpose(1, 2).flatten(0, 1))
    attended = torch.cat(parts) if len(parts) > 1 else parts[0]
    if layout.order is not None:
        attended = attended.index_select(0, layout.back)
    return attended.view(sequences, tokens, heads, width).transpose(1, 2)


def _in_order(x_BHTK: Tensor, order: Tensor | None) -> Tensor:
    """Return the tokens of a batch one behind the other, (B · T, H, K), in the order given."""
    flat = x_BHTK.transpose(1, 2).flatten(0, 1)
    return flat if order is None else flat.index_select(0, order)
