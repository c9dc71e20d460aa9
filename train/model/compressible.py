"""Training on for a smaller model: weights seen as their quantized values, and zeros that stay zeros.

Layers are given a view of their weight, through which they multiply; the weight itself stays the float32 one that is
learnt. Nothing is kept beside it: it works at every ZeRO stage, and a run that is resumed goes on the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from train.model.layers import Embedding, Linear
from train.model.quantized import BITS, Scheme, full_grid
from train.model.transformer import Head, Transformer, TransformerConfig

View = Callable[[Tensor], Tensor]


@dataclass
class QuantizationAwareConfig:
    """Training on quantized weights (Jacob et al. 2018), so that what is compressed afterwards loses less.

    Args:
        bits: 8 or 4; None trains on the weights as they are.
        group: neighbours in a row that share a scale; None is 32, as `compress` has it.
        embedding_bits: of embedding and head; None is 8.
    """

    bits: int | None = None
    group: int | None = None
    embedding_bits: int | None = None

    @property
    def scheme(self) -> Scheme:
        """Of the matrices within blocks."""
        assert self.bits is not None
        return Scheme(self.bits, 32 if self.group is None else self.group)

    @property
    def embedding_scheme(self) -> Scheme:
        """Of embedding and head."""
        bits = self.embedding_bits or 8
        return Scheme(bits, self.scheme.group if bits == self.bits else 0)


def check_quantization(config: QuantizationAwareConfig, lora_rank: int | None, model: TransformerConfig | None) -> None:
    """Refuse what can't work.

    Args:
        model: the resolved one, once it is known.

    Raises:
        UserError: names the setting and the mend.
    """
    if config.bits is None:
        if config.group is not None or config.embedding_bits is not None:
            raise UserError("quantization.group and quantization.embedding_bits need quantization=int4 or int8")
        return
    for key in ("bits", "embedding_bits"):
        if (value := getattr(config, key)) is not None and value not in BITS:
            raise UserError(f"quantization.{key}={value}: there is 8 and 4")
    if lora_rank:
        raise UserError(
            f"lora.rank={lora_rank} and quantization.bits={config.bits}: adapters are merged at the end, and the sum "
            "is on no grid; choose one of them"
        )
    if model is not None:
        for width in (model.width, model.hidden_width, model.heads * model.width_of_head):
            if config.scheme.group and width % config.scheme.group:
                raise UserError(f"quantization.group={config.scheme.group} doesn't divide the model's rows of {width}")


def straight_through(scheme: Scheme) -> View:
    """Return a view of a matrix as its quantized values, whose gradient goes to the matrix as if it were itself.

    Grids reach over each group's whole range: choosing better ones at every step costs more than the training.
    Source: Bengio et al. 2013, the straight-through estimator.
    """

    def view(weight_NK: Tensor) -> Tensor:
        with torch.no_grad():
            grid = full_grid(weight_NK.float(), scheme)
            change = grid.decode(grid.encode(weight_NK.float())).to(weight_NK.dtype) - weight_NK
        return weight_NK + change

    return view


class _KeepZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return gradient * (weight != 0)


def keep_zeros(weight: Tensor) -> Tensor:
    """Return a matrix whose zeros get no gradient: AdamW, which scales and steps each weight alone, leaves them 0."""
    return _KeepZeros.apply(weight)


def view_weights(model: Transformer, quantization: QuantizationAwareConfig, pruned: bool) -> None:
    """Give the layers of a model that is trained their views.

    Args:
        pruned: whether the zeros of the blocks are to stay.
    """
    quantized = quantization.bits is not None
    for module in model.modules():
        if isinstance(module, Linear):
            views = [*([keep_zeros] if pruned else []), *([straight_through(quantization.scheme)] if quantized else [])]
            if views:
                module.view = _in_turn(views)
        elif isinstance(module, (Embedding, Head)) and quantized:
            module.view = straight_through(quantization.embedding_scheme)


def _in_turn(views: list[View]) -> View:
    def view(weight: Tensor) -> Tensor:
        for each in views:
            weight = each(weight)
        return weight

    return view
