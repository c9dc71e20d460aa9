"""Text in, text out: joint encoding, stop texts, and prompts that are too long."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.generation.text_model import TextModel
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.sampling import SamplingConfig, sample_tokens, stream_text
from train.source import Loaded


@pytest.fixture(scope="module")
def model(small_dataset) -> TextModel:
    tokenizer = load_tokenizer(small_dataset / "tokenizer")
    config = TransformerConfig(width=32, layers=2, heads=4, key_value_heads=2, hidden_width=48, maximum_length=48)
    config = config.resolve(tokenizer.vocabulary_size)
    transformer = Transformer(config)
    initialise_weights(transformer, config, 0)
    for parameter in transformer.parameters():
        parameter.data *= 2.0
    return TextModel(Loaded(transformer.eval(), tokenizer, small_dataset, None, 48, 0), batch=3)


PROMPTS = ["the water ", "", "a slow river in the valley turns", "東京", "mill"]


@pytest.mark.parametrize("stop", [[], ["e"], ["er", "東", "\n"], ["never to be found"]])
def test_what_is_written_is_what_generate_streams(model, stop):
    sampling = SamplingConfig(20, 0.9, top_p=0.95, seed=3, stop=stop)
    for number, (prompt, text) in enumerate(zip(PROMPTS, model.write(PROMPTS, sampling))):
        ids = [model.tokenizer.end_of_document, *model.tokenizer.encode(prompt)]
        seeded = replace(sampling, seed=3 + number)
        tokens = sample_tokens(model.model, model.model.config, ids, seeded, torch.device("cpu"), torch.float32)
        assert text == "".join(stream_text(tokens, model.tokenizer, stop))


def test_a_token_over_the_border_belongs_to_the_continuation(model):
    text = "the water of the channel"
    for border in range(len(text) + 1):
        context, continuation = model.encode_pair(text[:border], text[border:])
        assert context[0] == model.tokenizer.end_of_document
        assert context[1:] + continuation == model.tokenizer.encode(text)
        assert text[:border].startswith(model.tokenizer.decode(context[1:]))


def test_of_a_prompt_that_is_too_long_the_end_is_kept_and_it_is_counted(model):
    before = model.shortened
    long = "water " * 60 + "mill"
    [written] = model.write_greedily([long], 8)
    assert model.shortened == before + 1
    ids = model.tokenizer.encode(long)[-40:]
    tokens = sample_tokens(
        model.model, model.model.config, ids, SamplingConfig(8, 0.0), torch.device("cpu"), torch.float32
    )
    assert written == "".join(stream_text(tokens, model.tokenizer, []))
