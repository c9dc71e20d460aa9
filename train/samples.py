"""Text that the model writes along the way, so that a person can see what the loss means."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.tokenization.tokenizer import Tokenizer
from train.engine import Engine
from train.sampling import SamplingConfig, sample_tokens, stream_text


@dataclass
class SamplesConfig:
    """When the model writes, from what and how much.

    Args:
        every: steps between two samplings; 0 writes at the end only.
        prompts: beginnings to continue; an empty one begins a document.
        tokens: most tokens of a sample.
    """

    every: int = 0
    prompts: list[str] = field(default_factory=lambda: ["The "])
    tokens: int = 64
    temperature: float = 0.8
    top_p: float = 0.95


def write_samples(engine: Engine, config: SamplesConfig, tokenizer: Tokenizer, seed: int) -> list[tuple[str, str]]:
    """Return each prompt with what the model made of it. Every rank calls it: at stage 3 they share the weights."""
    sampling = SamplingConfig(config.tokens, config.temperature, top_p=config.top_p, seed=seed)
    written = []
    with engine.evaluating() as model:
        for prompt in config.prompts:
            ids = [tokenizer.end_of_document, *tokenizer.encode(prompt)]
            parameter_dtype = next(engine.module.parameters()).dtype
            tokens = sample_tokens(model, engine.module.cached, ids, sampling, engine.world.device, parameter_dtype)
            written.append((prompt, "".join(stream_text(tokens, tokenizer, []))))
    return written
