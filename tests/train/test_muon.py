"""Muon makes the updates of matrices orthogonal, and is AdamW elsewhere."""

from __future__ import annotations

import pytest
import torch

from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.muon import Muon, orthogonalised
from train.optimizer import OptimizerConfig, build_optimizer


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (160, 48)])
def test_an_update_keeps_its_directions_and_its_singular_values_become_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    in_directions = left.T @ found @ right.T
    values = in_directions.diagonal()
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.allclose(in_directions, torch.diag(values), atol=1e-4)


def test_matrices_move_as_under_the_muon_of_torch():
    """Torch's runs its iteration in bfloat16: its updates are as near as that allows."""
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(48, 96, generator=draw)
    ours, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    groups = [{"params": [ours], "orthogonal": True, "weight_decay": 0.1}]
    optimizers = (
        Muon(groups, 0.01, 0.9, (0.9, 0.95), 1e-8),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        gradient = torch.randn(48, 96, generator=draw)
        for parameter, optimizer in zip((ours, theirs), optimizers):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved, expected = ours.detach() - weight, theirs.detach() - weight
    assert float((moved - expected).norm() / expected.norm()) < 0.03


def small() -> Transformer:
    shape = dict(width=16, layers=2, heads=2, key_value_heads=2, hidden_width=24, tied_embeddings=False)
    config = TransformerConfig(**shape).resolve(64)
    model = Transformer(config)
    initialise_weights(model, config, seed=3)
    return model


def test_embedding_head_and_norms_move_as_under_adamw_bit_for_bit():
    models = [small(), small()]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        build_optimizer(OptimizerConfig(kind, learning_rate=0.01), m) for kind, m in zip(("muon", "adamw"), models)
    ]
    draw = torch.Generator().manual_seed(4)
    for _ in range(3):
        for first, second in zip(models[0].parameters(), models[1].parameters()):
            first.grad = torch.randn(first.shape, generator=draw)
            second.grad = first.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    same = {
        name: torch.equal(parameter, dict(models[1].named_parameters())[name])
        for name, parameter in models[0].named_parameters()
    }
    hidden = {
        name for name, parameter in models[0].named_parameters() if name.startswith("blocks.") and parameter.dim() == 2
    }
    assert {name for name, is_same in same.items() if not is_same} == hidden


def test_a_matrix_has_one_moment_and_all_else_two():
    model = small()
    optimizer = build_optimizer(OptimizerConfig("muon"), model)
    assert isinstance(optimizer, Muon)
    for name, parameter in model.named_parameters():
        is_hidden = name.startswith("blocks.") and parameter.dim() == 2
        assert optimizer.kinds_of(parameter) == (("exp_avg",) if is_hidden else ("exp_avg", "exp_avg_sq"))
