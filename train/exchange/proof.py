"""The proof of an exchange: two models say the same of the same text, and two tokenizers cut it alike.

A model is run with one layer's weights in memory at a time, so that a proof needs no more room than its largest tensor
and the activations of one passage. Both sides compute in float32. Where weights were rounded, ours are rounded alike
before they are compared, so that the bound is as tight as for float32; what the rounding did to the model is measured
as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.foundation.errors import Failure
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.exchange.passage import PASSAGE
from train.model.transformer import Transformer, TransformerConfig

TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit where that is above 1."""
LENGTH = 512
"""Most tokens of the passage that are compared."""
ROWS = 32
"""Positions whose logits are compared at once: those of a large vocabulary fill much memory."""

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Proof:
    """What was compared and what came out.

    Args:
        by: what ran the other side.
        tokens: positions whose logits were compared.
        largest_logit: of the reference, in absolute value.
        difference: the largest of a logit, weights rounded alike.
        rounding_divergence: mean Kullback-Leibler divergence, in nats per token, of the predictions with rounded
            weights from those with float32 weights; None where nothing was rounded.
    """

    by: str
    tokens: int
    largest_logit: float
    difference: float
    rounding_divergence: float | None = None

    @property
    def allowed(self) -> float:
        return TOLERANCE * max(1.0, self.largest_logit)

    def figures(self) -> dict[str, Any]:
        return asdict(self) | {"allowed": self.allowed}


def compare(ours: Tensor, theirs: Tensor, by: str, unrounded: Tensor | None = None) -> Proof:
    """Compare logits (T, vocabulary).

    Args:
        unrounded: ours with float32 weights, where the weights were rounded.

    Raises:
        Failure: they differ by more than the tolerance, or aren't numbers.
    """
    if ours.shape != theirs.shape:
        raise Failure(f"the proof failed: {by} gives logits {tuple(theirs.shape)}, ours are {tuple(ours.shape)}")
    divergence = None
    if unrounded is not None:
        parts = zip(unrounded.split(ROWS), ours.split(ROWS))
        divergence = float(torch.stack([_divergence(before, after) for before, after in parts]).sum()) / len(ours)
    parts = zip(ours.split(ROWS), theirs.split(ROWS))
    difference = float(torch.stack([(one - other).abs().max() for one, other in parts]).max())
    proof = Proof(by, len(ours), float(torch.stack(ours.aminmax()).abs().max()), difference, divergence)
    # Not `>`: a difference that is no number must not pass.
    if not proof.difference <= proof.allowed:
        raise Failure(
            f"the proof failed: logits differ from those of {by} by {proof.difference:.3g}, "
            f"{proof.allowed:.3g} is allowed; nothing was written"
        )
    return proof


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    before, after = before.log_softmax(-1), after.log_softmax(-1)
    return (before.exp() * (before - after)).sum()


def passage_tokens(tokenizer: Tokenizer, config: TransformerConfig) -> list[int]:
    """Return the tokens that logits are compared on."""
    tokens = [tokenizer.end_of_document, *tokenizer.encode(PASSAGE)]
    return tokens[: min(LENGTH, config.maximum_length)]


def our_logits(config: TransformerConfig, read: Read, tokens: list[int]) -> Tensor:
    """Return the logits (T, vocabulary) of our model.

    Args:
        read: gives a parameter, float32, by its name with us.
    """
    with torch.device("meta"):
        model = Transformer(config)
    lend_weights(model, lambda name: read("embedding.weight") if _is_tied(name, config) else read(name))
    with torch.inference_mode():
        return model.eval()(torch.tensor([tokens]))[0]


def _is_tied(name: str, config: TransformerConfig) -> bool:
    return config.tied_embeddings and name == "head.weight"


def lend_weights(model: nn.Module, read: Read) -> None:
    """Let each part of a model on the meta device have its weights while it computes, and only then."""
    for path, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if names:
            _lend(module, {name: f"{path}.{name}" for name in names}, read)


def _lend(module: nn.Module, names: dict[str, str], read: Read) -> None:
    absent = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}

    def take(*_: Any) -> None:
        for name, full in names.items():
            values = read(full)
            if absent[name].shape != values.shape:
                raise Failure(f"{full} is {tuple(values.shape)}, which is not what its model needs")
            module._parameters[name] = nn.Parameter(values, requires_grad=False)

    def give_back(*_: Any) -> None:
        module._parameters.update(absent)

    module.register_forward_pre_hook(take)
    module.register_forward_hook(give_back)


def require_same_tokens(
    ours: Tokenizer, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
) -> None:
    """Compare what another tokenizer makes of the passage, there and back.

    Raises:
        Failure: it cuts or writes something differently.
    """
    expected, found = ours.encode(PASSAGE), encode(PASSAGE)
    if expected != found:
        at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
        near = ours.decode(expected[max(0, at - 3) : at + 3])
        raise Failure(f"the proof failed: the tokenizers cut {near!r} differently; nothing was written")
    if decode(expected) != ours.decode(expected):
        raise Failure("the proof failed: the tokenizers write the same tokens as different texts; nothing was written")
