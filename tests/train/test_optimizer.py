"""Which parameters decay."""

from __future__ import annotations

import pytest
import torch

from data_pipeline.foundation.errors import UserError
from train.model.transformer import Transformer, TransformerConfig
from train.optimizer import OptimizerConfig, build_optimizer, check_optimizer


def decays(model: torch.nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """Return the weight decay of each parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(config, model).param_groups
    listed = [(names[id(parameter)], group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert len(listed) == len(names) == len(dict(listed))
    return dict(listed)


def small(**settings) -> Transformer:
    shape = dict(width=16, layers=1, heads=2, key_value_heads=2, hidden_width=24, attention_bias=True)
    return Transformer(TransformerConfig(**shape, **settings).resolve(64))


def test_matrices_decay_and_norms_biases_and_embeddings_do_not():
    found = decays(small(tied_embeddings=False), OptimizerConfig(weight_decay=0.3))
    assert {name for name, decay in found.items() if decay} == {
        "head.weight",
        *(f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "output")),
        *(f"blocks.0.feed_forward.{part}.weight" for part in ("gate", "up", "down")),
    }
    assert set(found.values()) == {0.3, 0.0}


def test_a_tied_embedding_is_one_parameter_and_does_not_decay():
    found = decays(small(tied_embeddings=True), OptimizerConfig())
    assert "head.weight" not in found and found["embedding.weight"] == 0.0


def test_all_decay_if_asked():
    assert set(decays(small(), OptimizerConfig(decay_all=True)).values()) == {0.1}


def test_a_partitioned_parameter_is_judged_by_its_whole_shape():
    model = small(tied_embeddings=False)
    expected = decays(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = parameter.data.flatten()[:1]  # as ZeRO-3 leaves it
    assert decays(model, OptimizerConfig()) == expected


def test_settings_reach_adamw():
    config = OptimizerConfig(learning_rate=0.5, betas=[0.7, 0.8], epsilon=1e-5)
    defaults = build_optimizer(config, small()).defaults
    assert (defaults["lr"], defaults["betas"], defaults["eps"]) == (0.5, (0.7, 0.8), 1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "sgd"},
        {"learning_rate": 0.0},
        {"epsilon": 0.0},
        {"weight_decay": -0.1},
        {"clip_norm": -1.0},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
    ],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(UserError, match="optimizer"):
        check_optimizer(OptimizerConfig(**settings))
