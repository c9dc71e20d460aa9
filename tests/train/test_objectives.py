"""Each objective's loss is its published formula over Hugging Face's logits of one sample at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from packed_samples import Half, draw_pairs, packed
from test_transformer import SMALL, VOCABULARY, build, hugging_face_twin
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from data_pipeline.foundation.errors import UserError
from train.model import cross_entropy as chunked
from train.model.transformer import Transformer
from train.objective import ObjectiveConfig, build_objective, check_objective, check_objective_data

PAIRS = draw_pairs(seed=4, sequences=4, vocabulary=VOCABULARY)
DPO = ObjectiveConfig("dpo", beta=0.3)
DISTILLATION = [
    ObjectiveConfig("distillation", divergence=divergence, temperature=temperature, hard_weight=hard_weight)
    for divergence in ("forward", "reverse")
    for temperature, hard_weight in ((1.0, 0.0), (2.0, 0.3))
]


@pytest.fixture(params=["whole", "in chunks"])
def chunks(request, monkeypatch) -> None:
    if request.param == "in chunks":
        monkeypatch.setattr(chunked, "CHUNK_LOGITS", 7 * VOCABULARY)
        monkeypatch.setattr(chunked, "CHUNK_ROWS", 1)


def compare(model: Transformer, twin: nn.Module, names: dict[str, str], loss: Tensor, expected: Tensor) -> None:
    """Compare two losses and all their gradients."""
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6, abs=1e-5)
    model.zero_grad()
    loss.backward()
    expected.backward()
    ours = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        difference = (ours[names[name]].grad - parameter.grad).abs().max()
        assert float(difference) < 1e-4 * max(1.0, float(parameter.grad.abs().max())), name


def test_dpo_is_its_formula_over_pairs_seen_one_at_a_time(chunks):
    model, reference = build(SMALL), build(SMALL, seed=1).requires_grad_(False)
    (twin, names), (reference_twin, _) = hugging_face_twin(model), hugging_face_twin(reference)

    def answer(judge: nn.Module, half: Half) -> Tensor:
        scores = judge(half.tokens[None]).logits[0, half.prompt - 1 : -1].log_softmax(-1)
        return scores.gather(1, half.tokens[half.prompt :, None]).sum()

    def advantage(half: Half) -> Tensor:
        return answer(twin, half) - answer(reference_twin, half).detach()

    pairs = [pair for row in PAIRS for pair in row]
    margins = torch.stack([0.3 * (advantage(chosen) - advantage(rejected)) for chosen, rejected in pairs])
    objective, batch = build_objective(DPO, True, reference), packed(PAIRS)
    assert objective.target_count(batch) == len(margins) == 7
    with torch.no_grad():
        told = objective.held_out(model, batch)
    assert float(told["accuracy"]) == int((margins > 0).sum())
    assert float(told["margin"]) == pytest.approx(float(margins.detach().sum()), abs=1e-4)
    compare(model, twin, names, objective.summed_loss(model, batch), torch.log1p(torch.exp(-margins)).sum())


def test_dpo_begins_at_the_logarithm_of_two():
    model = build(SMALL)
    with torch.no_grad():
        told = build_objective(DPO, True, build(SMALL)).held_out(model, packed(PAIRS))
    assert float(told["loss"]) == pytest.approx(7 * math.log(2), abs=1e-6)
    assert float(told["margin"]) == 0.0


def test_dpo_without_a_pair_has_no_loss_and_teaches_nothing():
    model, batch = build(SMALL), packed(PAIRS)
    for labels in (None, torch.zeros_like(batch.labels)):
        nothing = replace(batch, targets=torch.full_like(batch.targets, -1), labels=labels)
        objective = build_objective(DPO, True, build(SMALL, seed=1))
        assert objective.target_count(nothing) == 0
        loss = objective.summed_loss(model, nothing)
        loss.backward()
        assert float(loss.detach()) == 0.0 and all(not bool(each.grad.any()) for each in model.parameters())


def distilled(config: ObjectiveConfig, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """The mixture as Hinton et al. write it, over whole logits."""
    tau = config.temperature
    ours, theirs = (student / tau).log_softmax(-1), (teacher / tau).log_softmax(-1)
    if config.divergence == "forward":
        divergence = kl_div(ours, theirs, reduction="sum", log_target=True)
    else:
        divergence = kl_div(theirs, ours, reduction="sum", log_target=True)
    hard = cross_entropy(student, targets, reduction="sum")
    return config.hard_weight * hard + (1 - config.hard_weight) * tau**2 * divergence


@pytest.mark.parametrize("config", DISTILLATION, ids=lambda config: f"{config.divergence} {config.temperature}")
def test_distillation_is_its_formula_over_samples_seen_one_at_a_time(chunks, config):
    model, teacher = build(SMALL), build(replace(SMALL, width=64, layers=2), seed=1).requires_grad_(False)
    (twin, names), (teacher_twin, _) = hugging_face_twin(model), hugging_face_twin(teacher)
    expected = torch.zeros(())
    halves = [half for row in PAIRS for pair in row for half in pair]
    for half in halves:
        logits, taught = (each(half.tokens[None]).logits[0, half.prompt - 1 : -1] for each in (twin, teacher_twin))
        expected = expected + distilled(config, logits, taught.detach(), half.tokens[half.prompt :])
    objective, batch = build_objective(config, True, teacher), packed(PAIRS, as_pairs=False)
    assert objective.target_count(batch) == sum(len(half.tokens) - half.prompt for half in halves)
    compare(model, twin, names, objective.summed_loss(model, batch), expected)


def test_a_student_that_is_its_teacher_has_no_divergence_and_is_measured_by_the_text():
    model, batch = build(SMALL), packed(PAIRS, as_pairs=False)
    for config in DISTILLATION:
        objective = build_objective(config, True, build(SMALL))
        text = float(build_objective(ObjectiveConfig("sft"), True).summed_loss(model, batch).detach())
        assert float(objective.held_out(model, batch)["loss"]) == text
        assert objective.summed_loss(model, batch).item() == pytest.approx(config.hard_weight * text, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "start_from", "message"),
    [
        (ObjectiveConfig("guess"), None, "there are pretrain, sft, dpo, distillation"),
        (ObjectiveConfig("dpo", beta=0.1), None, "objective=dpo needs start_from=RUN"),
        (ObjectiveConfig("dpo"), "run", "objective=dpo needs objective.beta"),
        (ObjectiveConfig("dpo", beta=0.0), "run", "objective.beta=0.0 must be above 0"),
        (ObjectiveConfig("dpo", beta=0.1, teacher="run"), "run", "objective.teacher=run has no meaning for"),
        (ObjectiveConfig("dpo", beta=0.1, z_loss=1e-4), "run", "objective.z_loss=0.0001 has no meaning for"),
        (ObjectiveConfig("sft", temperature=2.0), None, "objective.temperature=2.0 has no meaning for objective=sft"),
        (DISTILLATION[0], None, "needs objective.teacher=RUN"),
        (replace(DISTILLATION[0], teacher="run", divergence="sideways"), None, "there are forward and reverse"),
        (replace(DISTILLATION[0], teacher="run", hard_weight=1.0), None, "at 1 nothing is taught"),
    ],
)
def test_settings_that_do_not_make_an_objective_are_refused(config, start_from, message):
    with pytest.raises(UserError, match=message):
        check_objective(config, start_from)


@pytest.mark.parametrize(
    ("kind", "samples", "message"),
    [
        ("dpo", "answers", "dpo learns from preferences, and data holds answers: .* corpus.kind=preferences"),
        ("dpo", None, "data holds running text"),
        ("distillation", "preferences", "data holds preferences.*take objective=dpo"),
        ("sft", "preferences", "learns from answers"),
    ],
)
def test_data_of_another_kind_is_refused(kind, samples, message):
    with pytest.raises(UserError, match=message):
        check_objective_data(ObjectiveConfig(kind), samples, True, "data")
