"""Initial weights: a function of seed and name, with a first loss at chance and a quiet residual stream."""

from __future__ import annotations

import math

import pytest
import torch

from train.model.initialisation import initialise_parameter, initialise_weights
from train.model.transformer import Transformer, TransformerConfig

VOCABULARY = 512


def built(seed: int = 0, **settings) -> Transformer:
    shape = dict(width=64, layers=2, heads=4, key_value_heads=2, hidden_width=96, attention_bias=True)
    config = TransformerConfig(**{**shape, **settings}).resolve(VOCABULARY)
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))  # every element has to be set
    initialise_weights(model, config, seed)
    return model


def test_weights_depend_on_seed_and_name_alone():
    torch.manual_seed(1)
    first = built(3)
    torch.manual_seed(2)
    second = built(3)
    for (name, one), other in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(one, other), name
    # One at a time, in another order, as ZeRO-3 does it.
    for name, parameter in reversed(list(second.named_parameters())):
        parameter.data.zero_()
        initialise_parameter(name, parameter.data, second.config, 3)
    for (name, one), other in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(one, other), name


def test_other_seeds_and_names_are_other_weights():
    first, second = dict(built(0).named_parameters()), dict(built(1).named_parameters())
    matrices = [name for name, parameter in first.items() if parameter.dim() == 2]
    assert all(not torch.equal(first[name], second[name]) for name in matrices)
    blocks = [first[f"blocks.{layer}.attention.query.weight"] for layer in (0, 1)]
    assert not torch.equal(*blocks)
    assert not torch.equal(first["blocks.0.feed_forward.gate.weight"], first["blocks.0.feed_forward.up.weight"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [64, 256])
def test_the_first_loss_is_near_the_logarithm_of_the_vocabulary(tied, width):
    model = built(width=width, tied_embeddings=tied)
    tokens = torch.randint(VOCABULARY, (8, 65), generator=torch.Generator().manual_seed(0))
    loss = float(model(tokens[:, :-1], tokens[:, 1:]).detach()) / tokens[:, 1:].numel()
    assert math.log(VOCABULARY) - 0.1 < loss < math.log(VOCABULARY) + 0.4


def test_norms_are_one_biases_zero_and_residual_outputs_divided():
    model = built(layers=8)
    deviation = math.sqrt(2 / (5 * 64))
    for name, parameter in model.named_parameters():
        parameter = parameter.detach()
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.dim() == 1:
            assert bool((parameter == 1).all())
        else:
            is_output = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            expected = deviation / math.sqrt(16) if is_output else deviation
            assert float(parameter.std()) == pytest.approx(expected, rel=0.06), name
            assert abs(float(parameter.mean())) < 0.1 * expected


def test_a_partitioned_parameter_is_never_taken_for_a_whole_one():
    config = built().config
    with pytest.raises(ValueError, match="gather a partitioned parameter"):
        initialise_parameter("embedding.weight", torch.empty(0), config, 0)
