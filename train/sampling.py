"""Text from a model, a token at a time, with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.model.attention import KeyValueCache
from train.model.transformer import TransformerConfig

LIKELIEST = 256
"""Tokens that are looked at first for `top_p`."""


@dataclass
class SamplingConfig:
    """How the next token is drawn.

    Args:
        tokens: most tokens to write.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: draw among the k likeliest; 0 among all.
        top_p: draw among the likeliest that together have this probability (Holtzman et al. 2020).
        seed: of the draws.
        stop: texts at which writing ends, themselves left out; the end-of-document token always ends it.
    """

    tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0
    stop: list[str] = field(default_factory=list)


def check_sampling(config: SamplingConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.tokens < 1 or config.temperature < 0 or config.top_k < 0 or not 0 < config.top_p <= 1:
        raise UserError("sampling takes tokens ≥ 1, temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1")
    if any(not text for text in config.stop):
        raise UserError("sampling.stop: an empty text would stop before the first token")


def sample_tokens(
    model: Callable[..., Tensor],
    config: TransformerConfig,
    prompt: list[int],
    sampling: SamplingConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[int]:
    """Yield the ids that follow a prompt, as many as asked for or as the model's length leaves room for.

    The draws depend on the seed and the logits alone, so ranks that hold the same model draw the same tokens.

    Args:
        model: called as a Transformer: `model(tokens, cache=cache)`.
        prompt: at least one id.
        dtype: of keys and values.

    Raises:
        UserError: the prompt fills the model's whole length.
    """
    if len(prompt) >= config.maximum_length:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and the model takes {config.maximum_length}: none is left to write"
        )
    count = min(sampling.tokens, config.maximum_length - len(prompt))
    cache = KeyValueCache(config, 1, len(prompt) + count, device, dtype)
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = torch.tensor([prompt], device=device)
    with torch.no_grad():
        for _ in range(count):
            logits = model(tokens, cache=cache)[0, -1].float().cpu()
            chosen = choose(logits, sampling, generator)
            yield chosen
            tokens = torch.tensor([[chosen]], device=device)


def choose(logits_V: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> int:
    """Draw one token from (vocabulary,) float32 logits."""
    return int(draw(logits_V.unsqueeze(0), sampling, torch.rand(1, generator=generator))[0])


def draw(logits_BV: Tensor, sampling: SamplingConfig, uniform_B: Tensor) -> Tensor:
    """Draw a token for each sequence, (B,) ids, by inverting the cumulative distribution.

    Args:
        logits_BV: float32.
        uniform_B: a number from [0, 1) for each: what a sequence draws doesn't depend on those beside it.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    logits, ids = logits_BV.double() / sampling.temperature, None
    if sampling.top_p < 1 and not sampling.top_k and logits.shape[1] > LIKELIEST:
        # Sorting a whole vocabulary costs as much as a small model: the likeliest tokens nearly always suffice.
        likeliest, ids = logits.topk(LIKELIEST)
        probabilities = (likeliest - logits.logsumexp(dim=-1, keepdim=True)).exp()
        if bool((probabilities.sum(dim=-1) >= sampling.top_p).all()):
            return _invert(_nucleus(probabilities, sampling.top_p), ids, uniform_B)
    if sampling.top_k or sampling.top_p < 1:
        logits, ids = logits.sort(descending=True, stable=True)
    if sampling.top_k:
        logits = logits[:, : sampling.top_k]
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return _invert(probabilities, ids, uniform_B)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return falling probabilities without the tail: a token stays if those before it have not yet reached top_p."""
    return probabilities * (probabilities.cumsum(dim=-1) - probabilities < top_p)


def _invert(probabilities: Tensor, ids: Tensor | None, uniform_B: Tensor) -> Tensor:
    cumulative = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniform_B.double().unsqueeze(1) * cumulative[:, -1:], right=True)
    return (drawn if ids is None else ids.gather(1, drawn)).squeeze(1)


def stream_text(ids: Iterator[int], tokenizer: Tokenizer, stop: list[str]) -> Iterator[str]:
    """Yield text as its tokens come: never half a character, never any of a stop text."""
    seen: list[int] = []
    shown = ""
    for token in ids:
        if token == tokenizer.end_of_document:
            break
        seen.append(token)
        text = tokenizer.decode(seen)
        ends = [at for at in (text.find(word) for word in stop) if at >= 0]
        if ends:
            yield text[len(shown) : min(ends)]
            return
        safe = len(text) - held_back(text, stop)
        if safe > len(shown):
            yield text[len(shown) : safe]
            shown = text[:safe]
    rest = tokenizer.decode(seen)[len(shown) :]
    if rest:
        yield rest


def held_back(text: str, stop: list[str]) -> int:
    """Return how many characters at the end may still change or turn out to begin a stop text."""
    unfinished = len(text) - len(text.rstrip("�"))
    begun = [n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])]
    return max([unfinished, *begun])
