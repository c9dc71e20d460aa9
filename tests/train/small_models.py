"""Small checkpoints of every shape that can be exchanged, and what plain Transformers says of their exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.load import load_transformer
from train.exchange.new_checkpoint import write_new_checkpoint
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(
    width=48, layers=2, heads=4, key_value_heads=2, hidden_width=80, maximum_length=256, tied_embeddings=False
)
SHAPES = {
    "untied": SMALL,
    "tied": replace(SMALL, tied_embeddings=True, key_value_heads=4),
    "one key head": replace(SMALL, key_value_heads=1, head_width=16, rotary_theta=500000.0, norm_epsilon=1e-6),
    "query-key norm": replace(SMALL, query_key_norm=True, head_width=16, tied_embeddings=True),
    "qwen2 biases": replace(SMALL, attention_bias=True),
    "all biases": replace(SMALL, attention_bias=True, attention_output_bias=True, feed_forward_bias=True),
    "query-key norm and biases": replace(SMALL, query_key_norm=True, attention_bias=True, attention_output_bias=True),
}

EXPERTS = replace(SMALL, hidden_width=48, experts=5, active_experts=2)


def drawn_model(config: TransformerConfig, seed: int = 0) -> Transformer:
    """Return a model whose every parameter matters, norms and biases too, with logits far from uniform."""
    model = Transformer(config)
    initialise_weights(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter.data *= 3.0
    return model.eval()


def make_checkpoint(folder: Path, config: TransformerConfig, tokenizer: Tokenizer, seed: int = 0) -> Path:
    """Write a checkpoint of a drawn model."""
    config = config.resolve(tokenizer.vocabulary_size)
    parameters = dict(drawn_model(config, seed).named_parameters())
    folder.mkdir()
    write_new_checkpoint(folder, config, tokenizer, lambda name: parameters[name].detach(), {"run": "drawn"})
    return folder


def tokenizer_of_dataset(dataset: Path) -> Tokenizer:
    return load_tokenizer(dataset / "tokenizer")


def ours(checkpoint: Path) -> Transformer:
    return load_transformer(checkpoint, torch.device("cpu"))


def theirs(folder: Path, **where: Any) -> Any:
    """Load a model as any user of Transformers does."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()


def some_tokens(vocabulary: int, length: int = 100) -> torch.Tensor:
    return torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(3))


def greedy(model: Transformer, tokens: list[int], count: int = 64) -> list[int]:
    """Continue tokens with the likeliest, each time by the logits of the whole sequence."""
    tokens = list(tokens)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens
