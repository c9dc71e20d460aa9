"""With a base width, what is tuned on a narrow model serves for a wide one: μP's rules, and what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from data_pipeline.foundation.errors import UserError
from train.model.adapters import LoraConfig
from train.model.initialisation import initialise_parameter
from train.model.transformer import Transformer, TransformerConfig
from train.optimizer import KINDS, OptimizerConfig, build_optimizer, role_of
from train.settings import TrainConfig, check_settings

BASE, VOCABULARY = 32, 96
HIDDEN, OUTER, LAST = "blocks.0.feed_forward.down.weight", "embedding.weight", "norm.weight"


def model_of(width: int, base: int | None, tied: bool = True, seed: int = 0) -> Transformer:
    heads = width // 16
    shape = dict(width=width, layers=2, heads=heads, key_value_heads=heads, hidden_width=3 * width)
    config = TransformerConfig(**shape, tied_embeddings=tied).resolve(VOCABULARY)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        initialise_parameter(name, parameter.data, config, seed, base)
    return model


@pytest.mark.parametrize(("kind", "power"), [("adamw", -1.0), ("lion", -1.0), ("muon", -0.5)])
@pytest.mark.parametrize("wider", [1, 2, 8])
def test_rates_of_hidden_matrices_fall_with_the_width_and_decay_times_rate_stays(kind, power, wider):
    config = OptimizerConfig(kind, base_width=BASE, weight_decay=0.1)
    dimensions = {HIDDEN: 2, OUTER: 2, "head.weight": 2, LAST: 1, "blocks.0.attention_norm.weight": 1}
    scales = {name: role_of(name, number, config, BASE * wider).rate_scale for name, number in dimensions.items()}
    one = {OUTER: 1.0, "head.weight": 1.0, "blocks.0.attention_norm.weight": 1.0}
    assert scales == pytest.approx({HIDDEN: wider**power, LAST: 1 / wider, **one})
    hidden = role_of(HIDDEN, 2, config, BASE * wider)
    assert hidden.rate_scale * hidden.weight_decay == pytest.approx(0.1)


def test_without_a_base_width_all_rates_are_one():
    for name, dimensions in ((HIDDEN, 2), (OUTER, 2), (LAST, 1)):
        assert role_of(name, dimensions, OptimizerConfig(), 512).rate_scale == 1.0


@pytest.mark.parametrize(("base", "lora"), [(0, 0), (64, 8)])
def test_a_base_width_that_means_nothing_is_refused(base, lora):
    config = TrainConfig(
        optimizer=OptimizerConfig(base_width=base), lora=LoraConfig(lora or None), start_from="runs/base"
    )
    with pytest.raises(UserError, match=f"optimizer.base_width={base}"):
        check_settings(config)


def test_initial_deviations_are_the_bases_outside_and_fall_with_the_root_of_the_width_inside():
    for wider in (1, 4):
        model = model_of(BASE * wider, BASE, tied=False)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                assert bool((parameter == (1 / wider if name == LAST else 1.0)).all())
                continue
            deviation = math.sqrt(2 / (5 * BASE)) / (wider**0.5 if name.startswith("blocks.") else 1.0)
            deviation /= 2 if name.endswith(("attention.output.weight", "feed_forward.down.weight")) else 1
            assert float(parameter.detach().std()) == pytest.approx(deviation, rel=0.1), name


def batch(step: int) -> torch.Tensor:
    first = torch.randint(VOCABULARY, (8, 1), generator=torch.Generator().manual_seed(step))
    return (first + 7 * torch.arange(25)) % VOCABULARY


def train(model: Transformer, optimizer: torch.optim.Optimizer, steps: int, rate: float, multiplier: float = 1.0):
    """Return losses and the logits on held-out text before and after."""
    losses, held_out = [], batch(1000)[:, :-1]
    with torch.no_grad():
        before = model(held_out)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        tokens = batch(step)
        loss = cross_entropy(multiplier * model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, before, model(held_out)


@pytest.mark.parametrize("tied", [True, False])
def test_the_last_norms_gain_is_the_multiplier_at_the_logits_of_table_8(tied):
    """The same model with gain 1 and rate 1 there, and logits divided as the paper has it, learns the same."""
    width, config = 4 * BASE, OptimizerConfig(base_width=BASE, epsilon=1e-12)
    ours, paper = (model_of(width, BASE, tied) for _ in range(2))
    paper.norm.weight.data.fill_(1.0)
    optimizers = [build_optimizer(config, model) for model in (ours, paper)]
    for group in optimizers[1].param_groups:
        if any(parameter is paper.norm.weight for parameter in group["params"]):
            group["params"] = [parameter for parameter in group["params"] if parameter is not paper.norm.weight]
    optimizers[1].add_param_group({"params": [paper.norm.weight], "weight_decay": 0.0, "rate_scale": 1.0})
    found, _, _ = train(ours, optimizers[0], 8, 0.01)
    expected, _, _ = train(paper, optimizers[1], 8, 0.01, multiplier=BASE / width)
    assert found == pytest.approx(expected, abs=1e-4) and found[-1] < found[0] - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_move_logits_no_farther_at_a_greater_width_and_without_it_ever_farther(kind):
    """The coordinate check of the paper's section D.1: the slope of movement over width on logarithmic scales.

    It nears 0 from below, for what isn't aligned yet moves with the root of the width.
    """
    slopes = {}
    for base in (BASE, None):
        moved = []
        for width in (64, 256):
            model = model_of(width, base)
            optimizer = build_optimizer(OptimizerConfig(kind, base_width=base), model)
            _, before, after = train(model, optimizer, 4, rate=3e-3 if kind == "lion" else 1e-2)
            moved.append(float((after - before).square().mean().sqrt()))
        slopes[base] = math.log(moved[1] / moved[0]) / math.log(4)
    assert -0.5 < slopes[BASE] < 0.0 and slopes[None] > 0.25, slopes
