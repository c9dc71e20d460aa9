"""At every ZeRO stage and world size, training computes what a plain PyTorch loop computes."""

from __future__ import annotations

import math

import pytest
from engine_runs import MODEL, OPTIMIZER, SEQUENCES, whole_batch
from plain_training import plain_loss, plain_model
from torch.nn.utils import clip_grad_norm_


@pytest.fixture(scope="module")
def plain() -> tuple[dict[int, float], dict[int, float]]:
    return plain_training(50)


def plain_training(steps: int, half_until: int = 0) -> tuple[dict[int, float], dict[int, float]]:
    """Losses and gradient norms over the whole batch at once: logits, cross_entropy, clip, AdamW."""
    model, optimizer = plain_model()
    losses, norms = {}, {}
    for step in range(1, steps + 1):
        loss = plain_loss(model, optimizer, step, SEQUENCES // 2 if step <= half_until else SEQUENCES)
        optimizer.zero_grad()
        loss.backward()
        norms[step] = float(clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm))
        optimizer.step()
        losses[step] = loss.item()
    return losses, norms


def test_the_reference_starts_at_chance_learns_and_is_clipped(plain):
    losses, norms = plain
    assert abs(losses[1] - math.log(MODEL.vocabulary_size)) < 0.4
    assert losses[50] < 2.0
    assert max(norms.values()) > OPTIMIZER.clip_norm


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", range(4))
def test_fifty_steps_are_those_of_plain_pytorch(trainings, plain, stage, ranks):
    losses, norms = plain
    assert trainings.losses(ranks, f"stage {stage}") == pytest.approx(losses, abs=2e-5)
    measured = trainings.norms(ranks, f"stage {stage}")
    assert measured == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_targets_are_counted_over_all_ranks_and_micro_batches(trainings, ranks):
    counted = trainings.by_ranks[ranks]["stage 1"]["targets"]
    assert counted["1"] == int((whole_batch(1)[1] >= 0).sum())


def test_the_micro_batch_does_not_change_what_is_learnt(trainings, plain):
    assert trainings.losses(1, "micro 8") == pytest.approx(first_steps(plain[0]), abs=2e-5)


@pytest.mark.parametrize(
    ("plan", "ranks"),
    [*((f"growing {stage}", ranks) for stage in range(4) for ranks in (1, 2)), ("growing offload 2", 2)],
)
def test_a_batch_that_grows_on_the_way_is_learnt_from_as_plain_pytorch_does(trainings, plan, ranks):
    losses, _ = plain_training(12, half_until=5)
    assert trainings.losses(ranks, plan) == pytest.approx(losses, abs=2e-5)


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("recomputed", ["blocks", "cheap", "host"])
def test_activation_checkpointing_changes_nothing_at_all(trainings, stage, recomputed):
    stored = first_steps(trainings.losses(1, f"stage {stage}"))
    assert trainings.losses(1, f"activation checkpointing {recomputed} {stage}") == stored


def test_a_bias_is_added_once_where_products_are_kept(trainings):
    """DeepSpeed's linear layer of stage 3 adds it to the product in place; what differed at first was the gradient."""
    again, plain = (trainings.norms(1, name) for name in ("odd recomputed 3", "odd"))
    assert again == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_overlapped_communication_computes_the_same(trainings, plain, stage, ranks):
    assert trainings.losses(ranks, f"overlap {stage}") == pytest.approx(first_steps(plain[0]), abs=2e-5)


@pytest.mark.parametrize(("stage", "ranks"), [(1, 2), (2, 2), (3, 1)])
def test_offloaded_state_computes_the_same(trainings, plain, stage, ranks):
    assert trainings.losses(ranks, f"offload {stage}") == pytest.approx(first_steps(plain[0]), abs=2e-5)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_close_to_fp32(trainings, plain, stage, ranks):
    losses = trainings.losses(ranks, f"bf16 {stage}")
    assert losses == pytest.approx(first_steps(plain[0]), abs=0.02)
    assert losses != pytest.approx(first_steps(plain[0]), abs=1e-5), "that was float32"


def first_steps(losses: dict[int, float], count: int = 12) -> dict[int, float]:
    return {step: loss for step, loss in losses.items() if step <= count}
