"""Muon computes the same at every ZeRO stage and world size as a plain loop over whole matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from engine_runs import MODEL, OPTIMIZER, SEQUENCES, rate
from plain_training import plain_loss, plain_model
from torch.nn.utils import clip_grad_norm_

from train.matrix_exchange import Spread, owners_of, rounds_of
from train.muon import orthogonalised

PLACES = [(stage, ranks) for stage in range(4) for ranks in (1, 2)]


@pytest.fixture(scope="module")
def plain() -> dict[int, float]:
    """Losses of a plain loop: Nesterov's momentum, each matrix made orthogonal, AdamW for the rest."""
    model, adamw = plain_model(replace(MODEL, layers=3))
    hidden = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
    averages = [torch.zeros_like(parameter) for parameter in hidden]
    losses = {}
    for step in range(1, 13):
        loss = plain_loss(model, adamw, step, SEQUENCES)
        losses[step] = loss.item()
        adamw.zero_grad()
        loss.backward()
        assert float(clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)) > OPTIMIZER.clip_norm or step > 1
        for parameter, average in zip(hidden, averages):
            gradient, parameter.grad = parameter.grad, None
            average.mul_(0.95).add_(gradient)
            change = orthogonalised(gradient + 0.95 * average) * 0.2 * max(parameter.shape) ** 0.5
            with torch.no_grad():
                parameter.sub_(rate(step) * (change + 0.1 * parameter))
        adamw.step()
    return losses


@pytest.mark.parametrize(("stage", "ranks"), PLACES)
def test_every_stage_is_the_plain_loop(optimized, plain, stage, ranks):
    assert optimized.losses(ranks, f"muon {stage}") == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(("stage", "ranks"), PLACES)
def test_resumed_in_the_same_shape_all_is_bitwise_the_same(optimized, stage, ranks):
    whole, resumed = (optimized.losses(ranks, f"muon {stage}{suffix}") for suffix in ("", " resumed"))
    assert resumed == {step: loss for step, loss in whole.items() if step > 5}
    ends = [optimized.checkpoint(f"{ranks}-muon-{stage}{suffix}", 12) for suffix in ("", "-resumed")]
    for path in ends[0].glob("*.safetensors"):
        assert path.read_bytes() == (ends[1] / path.name).read_bytes()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("moved", ["0 to 3", "3 to 1", "1 to 2", "2 to 0"])
def test_what_two_processes_saved_goes_on_at_another_stage_and_world_size(optimized, plain, moved, ranks):
    later = {step: loss for step, loss in plain.items() if step > 5}
    assert optimized.losses(ranks, f"muon {moved}") == pytest.approx(later, abs=2e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_offloaded_and_in_bf16_it_is_as_close_as_adamw(optimized, plain, ranks):
    assert optimized.losses(ranks, "muon offload") == pytest.approx(plain, abs=1e-5)
    bf16 = optimized.losses(ranks, "muon bf16")
    assert bf16 == pytest.approx(plain, abs=0.03) and bf16 != pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(("stage", "ranks"), PLACES)
def test_a_hidden_matrix_is_saved_with_one_moment(optimized, stage, ranks):
    kinds: dict[str, set[str]] = {}
    for path in optimized.checkpoint(f"{ranks}-muon-{stage}", 5).glob("state-*.safetensors"):
        for key in safetensors.torch.load_file(path):
            name, kind = key.rsplit("/", 1)
            kinds.setdefault(name, set()).add(kind)
    assert kinds["blocks.1.attention.query.weight"] == {"master", "exp_avg"}
    assert kinds["blocks.1.attention_norm.weight"] == {"master", "exp_avg", "exp_avg_sq"} == kinds["embedding.weight"]


def whole_on_each(*holders: tuple[int, ...], ranks: int = 4) -> list[Spread]:
    """Matrices of 8 × 12 elements, each in equal parts on some ranks."""
    found = []
    for held in holders:
        part = 96 // len(held)
        ranges = tuple(
            (held.index(rank) * part, held.index(rank) * part + part) if rank in held else (0, 0)
            for rank in range(ranks)
        )
        found.append(Spread((8, 12), ranges, 0))
    return found


def test_what_a_rank_holds_whole_stays_there_and_the_rest_goes_to_who_has_least_to_do():
    spreads = whole_on_each((0, 1), (0,), (0,), (1, 2), (3,), (0, 1, 2, 3))
    assert owners_of(spreads, 4) == [1, 0, 0, 2, 3, 1]
    at_stage_3 = whole_on_each(*[(0, 1, 2, 3)] * 8)
    assert sorted(owners_of(at_stage_3, 4)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_no_rank_receives_more_at_once_than_the_bound_but_one_matrix():
    spreads = whole_on_each(*[(0, 1, 2, 3)] * 10)
    owned = list(zip(spreads, owners_of(spreads, 4)))
    for bound, most in ((1, 1), (72, 1), (144, 2), (1000, 3)):
        rounds = rounds_of(owned, bound)
        assert sorted(id(each) for part in rounds for each, _ in part) == sorted(map(id, spreads))
        counts = [[owner for _, owner in part].count(rank) for part in rounds for rank in range(4)]
        assert max(counts) == most and len(rounds) == -(-3 // most)


def test_a_larger_model_than_the_others_is_really_cut_within_a_matrix():
    """Or the trainings above would exchange nothing at stages 1 and 2."""
    sizes = [MODEL.width**2, *[MODEL.width * 32] * 2, MODEL.width**2, *[MODEL.width * MODEL.hidden_width] * 3] * 3
    ends = torch.tensor(sizes).cumsum(0)
    assert int(ends[-1]) // 2 not in ends.tolist()
