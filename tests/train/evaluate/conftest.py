"""A small model of random weights that has opinions, as tasks see it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.generation.text_model import TextModel
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.source import Loaded


@pytest.fixture(scope="session")
def loaded(small_dataset: Path) -> Loaded:
    tokenizer = load_tokenizer(small_dataset / "tokenizer")
    config = TransformerConfig(width=48, layers=2, heads=4, key_value_heads=2, hidden_width=80, maximum_length=160)
    config = config.resolve(tokenizer.vocabulary_size)
    model = Transformer(config)
    initialise_weights(model, config, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 3.0  # logits far from uniform
    return Loaded(model.eval(), tokenizer, small_dataset, None, 160, 0)


@pytest.fixture
def model(loaded: Loaded) -> TextModel:
    return TextModel(loaded, batch=7)
