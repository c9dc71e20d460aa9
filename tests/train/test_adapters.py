"""Adapters learn what their formula says at every ZeRO stage, leave all else as it was, and are merged when loaded."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from engine_runs import MODEL, OPTIMIZER, SEED, rate, whole_batch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from data_pipeline.foundation.errors import UserError
from train.checkpoint.load import StateReader, load_transformer
from train.checkpoint.state_file import MASTER
from train.model.adapters import LoraConfig, check_lora
from train.model.initialisation import initialise_parameter

RANK, SCALE, STEPS = 4, 2.0, 6
CPU = torch.device("cpu")


@functools.cache
def plain_training(start: Path) -> tuple[dict[int, float], dict[str, Tensor]]:
    """Losses, and merged weights at the end: W + 2 · up · down stands for each matrix W of a linear layer."""
    model = load_transformer(start, CPU).requires_grad_(False)
    base = dict(model.named_parameters())
    factors = {}
    for name, weight in base.items():
        if weight.dim() == 2 and name.startswith("blocks."):
            layer = name.removesuffix("weight")
            down, up = torch.empty(RANK, weight.shape[1]), torch.zeros(weight.shape[0], RANK)
            initialise_parameter(f"{layer}adapter.down", down, MODEL, SEED)
            factors[name] = (down.requires_grad_(), up.requires_grad_())
    leaves = [leaf for pair in factors.values() for leaf in pair]
    optimizer = torch.optim.AdamW(leaves, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    merged = lambda: base | {name: base[name] + SCALE * up @ down for name, (down, up) in factors.items()}  # noqa: E731
    losses = {}
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate(step)
        tokens, targets = whole_batch(step)
        logits = functional_call(model, merged(), (tokens,))
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(leaves, OPTIMIZER.clip_norm)
        optimizer.step()
        losses[step] = loss.item()
    return losses, {name: weight.detach() for name, weight in merged().items()}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", range(4))
def test_adapters_learn_what_plain_pytorch_does_and_are_merged_when_loaded(trainings, stage, ranks):
    losses, merged = plain_training(trainings.checkpoint("1-0", 20))
    assert trainings.losses(ranks, f"lora {stage}") == pytest.approx(losses, abs=1e-5)
    weights = dict(load_transformer(trainings.checkpoint(f"{ranks}-lora-{stage}", STEPS), CPU).named_parameters())
    assert weights.keys() == merged.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.data, merged[name], rtol=1e-4, atol=1e-5)


def test_what_is_not_adapted_stays_bit_for_bit(trainings):
    before = dict(load_transformer(trainings.checkpoint("1-0", 20), CPU).named_parameters())
    after = dict(load_transformer(trainings.checkpoint("2-lora-3", STEPS), CPU).named_parameters())
    same = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert same == {name for name in before if not (name.startswith("blocks.") and before[name].dim() == 2)}


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 70), (64, 128), (4000, 4096)])
def test_any_range_of_a_weight_is_merged(trainings, start, stop):
    folder, name = trainings.checkpoint("2-lora-1", STEPS), "blocks.1.attention.query.weight"
    whole = dict(load_transformer(folder, CPU).named_parameters())[name].data
    out = torch.empty(stop - start)
    StateReader(folder).fill(name, MASTER, tuple(whole.shape), start, out)
    torch.testing.assert_close(out, whole.flatten()[start:stop], rtol=0, atol=1e-7)
    StateReader(folder, merges=False).fill(name, MASTER, tuple(whole.shape), start, out)
    assert not torch.equal(out, whole.flatten()[start:stop])


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stages", ["0 to 3", "3 to 1"])
def test_adapters_go_on_at_another_stage(trainings, stages, ranks):
    losses, _ = plain_training(trainings.checkpoint("1-0", 20))
    later = {step: loss for step, loss in losses.items() if step > 3}
    assert trainings.losses(ranks, f"lora {stages}") == pytest.approx(later, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "start_from", "message"),
    [
        (LoraConfig(rank=4), None, "lora.rank=4 needs start_from=RUN"),
        (LoraConfig(rank=0), "run", "lora.rank=0 and lora.alpha=None must be above 0"),
        (LoraConfig(rank=4, alpha=-1.0), "run", "must be above 0"),
        (LoraConfig(alpha=8.0), "run", "lora.alpha=8.0 needs lora.rank"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(config, start_from, message):
    with pytest.raises(UserError, match=message):
        check_lora(config, start_from)
