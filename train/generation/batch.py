"""What follows many prompts, generated together with one key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from train.model.ragged_cache import RaggedCache
from train.model.transformer import TransformerConfig
from train.sampling import SamplingConfig, draw

KEPT_UNTIL = 0.75
"""Share of rows still written at which the finished ones leave the batch: leaving costs a copy of the cache."""


def generate_batch(
    model: Callable[..., Tensor],
    config: TransformerConfig,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    device: torch.device,
    dtype: torch.dtype,
    seeds: Sequence[int] | None = None,
    stop_tokens: Collection[int] = (),
    ended: Callable[[list[int]], bool] | None = None,
    at_once: int = 64,
    progress: Callable[[int], None] = lambda prompts: None,
) -> list[list[int]]:
    """Return the ids that follow each prompt, in the order of the prompts.

    What follows a prompt depends on it and its seed, not on the batch it is in, to within the rounding of matrix
    products of other shapes; it is what `sample_tokens` yields for them.

    Args:
        model: called as a Transformer: `model(tokens, cache=cache, at_BN=positions)`.
        prompts: each at least one id, of any lengths.
        sampling: `tokens` is the most to write; `seed` and `stop` are not used here.
        dtype: of keys and values.
        seeds: of each prompt's draws; None counts up from `sampling.seed`.
        stop_tokens: ids that end a sequence, themselves left out.
        ended: asked after each token with all that a sequence has written whether that is its end.
        at_once: most sequences in a batch.
        progress: told the number of prompts finished since the last call.

    Raises:
        UserError: a prompt fills the model's whole length.
    """
    seeds = range(sampling.seed, sampling.seed + len(prompts)) if seeds is None else seeds
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
    for prompt in prompts:
        if not 1 <= len(prompt) < config.maximum_length:
            raise UserError(
                f"a prompt has {len(prompt)} tokens and the model takes 1 to {config.maximum_length - 1} with one left "
                "to write"
            )
    written: list[list[int]] = [[] for _ in prompts]
    # Prompts of like length share a batch: the shorter ones are padded less.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for first in range(0, len(order), at_once):
        group = order[first : first + at_once]
        texts = _continue_group(
            model, config, [prompts[index] for index in group], sampling, device, dtype,
            [seeds[index] for index in group], frozenset(stop_tokens), ended, progress,
        )  # fmt: skip
        for index, text in zip(group, texts):
            written[index] = text
    return written


def _continue_group(
    model: Callable[..., Tensor],
    config: TransformerConfig,
    prompts: list[Sequence[int]],
    sampling: SamplingConfig,
    device: torch.device,
    dtype: torch.dtype,
    seeds: list[int],
    stop_tokens: frozenset[int],
    ended: Callable[[list[int]], bool] | None,
    progress: Callable[[int], None],
) -> list[list[int]]:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    rooms = [min(sampling.tokens, config.maximum_length - len(prompt)) for prompt in prompts]
    longest = max(len(prompt) for prompt in prompts)
    uniforms = torch.stack(
        [torch.rand(sampling.tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    cache = RaggedCache(config, lengths, min(longest + sampling.tokens, config.maximum_length), device, dtype)
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = list(range(len(prompts)))  # the prompt of each row of the cache
    at = (lengths - 1).unsqueeze(1)
    with torch.no_grad():
        for step in range(sampling.tokens):
            logits = model(tokens.to(device), cache=cache, at_BN=at.to(device))[:, 0].float().cpu()
            chosen = draw(logits, sampling, uniforms[rows, step])
            for index, token in zip(rows, chosen.tolist()):
                if finished[index]:
                    continue
                if token not in stop_tokens:
                    written[index].append(token)
                finished[index] = (
                    token in stop_tokens
                    or len(written[index]) == rooms[index]
                    or (ended is not None and ended(written[index]))
                )
                progress(finished[index])
            going = [number for number, index in enumerate(rows) if not finished[index]]
            if not going:
                break
            if len(going) <= KEPT_UNTIL * len(rows) or any(rooms[i] == step + 1 for i in rows):
                cache.keep(torch.tensor(going, device=device))
                rows, chosen = [rows[number] for number in going], chosen[going]
            tokens, at = chosen.unsqueeze(1), torch.zeros(len(rows), 1, dtype=torch.int64)
    return written
