"""At every ZeRO stage and world size, tuning on packed samples computes what plain PyTorch does, one at a time."""

from __future__ import annotations

import functools

import pytest
import torch
from engine_runs import OBJECTIVES, OPTIMIZER, SEQUENCES, VOCABULARY, frozen_model, rate
from packed_samples import Half, draw_pairs
from plain_training import plain_model
from test_objectives import distilled
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils import clip_grad_norm_

from train.model.transformer import Transformer
from train.objective import ObjectiveConfig

STEPS = 8


def answer_logits(model: Transformer, half: Half) -> tuple[Tensor, Tensor]:
    """Return the logits of an answer's tokens, and the tokens."""
    return model(half.tokens[None])[0, half.prompt - 1 : -1], half.tokens[half.prompt :]


def likelihood(model: Transformer, half: Half) -> Tensor:
    logits, answer = answer_logits(model, half)
    return logits.log_softmax(-1).gather(1, answer[:, None]).sum()


def policy_loss(
    config: ObjectiveConfig, model: Transformer, frozen: Transformer, half: Half, advantage: float
) -> Tensor:
    """GRPO of one answer that the frozen model has written, to which the policy is held as well."""
    now, before = (
        logits.log_softmax(-1).gather(1, answer[:, None])
        for logits, answer in (answer_logits(each, half) for each in (model, frozen))
    )
    ratio = (now - before).exp()
    limited = ratio.clamp(1 - config.clip, 1 + config.clip)
    divergence = (before - now).exp() - (before - now) - 1
    return -(torch.min(ratio * advantage, limited * advantage) - config.beta * divergence).mean()


def mean_loss(config: ObjectiveConfig, model: Transformer, frozen: Transformer, step: int) -> Tensor:
    if config.kind == "grpo":
        rows = draw_pairs(step, SEQUENCES, VOCABULARY)
        halves = [(row[0][number % 2], (1.0, -0.5)[number % 2]) for number, row in enumerate(rows)]
        return torch.stack([policy_loss(config, model, frozen, *each) for each in halves]).mean()
    pairs = [pair for row in draw_pairs(step, SEQUENCES, VOCABULARY) for pair in row]
    if config.kind == "dpo":
        ratios = [[likelihood(model, half) - likelihood(frozen, half) for half in pair] for pair in pairs]
        return -torch.stack([logsigmoid(config.beta * (chosen - rejected)) for chosen, rejected in ratios]).mean()
    total, count = torch.zeros(()), 0
    for half in (half for pair in pairs for half in pair):
        logits, answer = answer_logits(model, half)
        total = total + distilled(config, logits, answer_logits(frozen, half)[0], answer)
        count += len(answer)
    return total / count


@functools.cache
def plain_tuning(name: str) -> tuple[dict[int, float], dict[int, float]]:
    model, optimizer = plain_model()
    frozen, losses, norms = frozen_model(), {}, {}
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = mean_loss(ObjectiveConfig(**OBJECTIVES[name]), model, frozen, step)
        optimizer.zero_grad()
        loss.backward()
        norms[step] = float(clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm))
        optimizer.step()
        losses[step] = loss.item()
    return losses, norms


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_tuning_on_packed_samples_is_that_of_plain_pytorch(trainings, name, stage, ranks):
    losses, norms = plain_tuning(name)
    assert trainings.losses(ranks, f"{name} {stage}") == pytest.approx(losses, abs=1e-5)
    measured = trainings.norms(ranks, f"{name} {stage}")
    assert measured == pytest.approx(norms, rel=1e-4)
