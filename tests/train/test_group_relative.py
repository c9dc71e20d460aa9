"""GRPO's loss is its published formula over Hugging Face's logits of one answer at a time; answers are a function."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from statistics import mean, pstdev

import pytest
import torch
from engine_runs import OBJECTIVES
from test_objectives import compare
from test_transformer import SMALL, VOCABULARY, build, hugging_face_twin
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from data_pipeline.labels import EXPECTED
from data_pipeline.loader import IGNORED, Batch
from data_pipeline.preparation.sample_tokens import encode_sample
from data_pipeline.readers.document import Document
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.verifier import Verifier
from train.distributed import World
from train.model.transformer import Transformer
from train.objective import ObjectiveConfig, build_objective, check_objective, check_objective_data
from train.objective.group_relative import Answers, group_advantages
from train.objective.rollouts import PATIENCE, Rollouts, RolloutSettings
from train.sampling import SamplingConfig, sample_tokens

CPU = torch.device("cpu")
GRPO = ObjectiveConfig(**{**OBJECTIVES["grpo"], "extract": ExtractConfig()})
SHAPES = [(3, 5), (2, 9), (6, 1), (1, 12)]
"""Of each answer the tokens of its problem and its own."""


def some_answers(seed: int) -> tuple[list[tuple[Tensor, int]], Tensor]:
    """Return ids with the number of those that are the problem, and advantages."""
    generator = torch.Generator().manual_seed(seed)
    rows = [(torch.randint(VOCABULARY, (asked + own,), generator=generator), asked) for asked, own in SHAPES]
    return rows, torch.randn(len(rows), generator=generator)


def near(model: Transformer, seed: int) -> Transformer:
    """Return another model that says much the same, as after some updates."""
    other = build(SMALL, seed=seed).requires_grad_(False)
    for mine, theirs in zip(other.parameters(), model.parameters()):
        mine.mul_(0.02).add_(theirs.detach(), alpha=0.98)
    return other


def as_batch(rows: list[tuple[Tensor, int]], advantages: Tensor) -> Answers:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    targets = torch.full((len(rows), longest - 1), IGNORED)
    for row, (text, asked) in enumerate(rows):
        ids[row, : len(text)] = text
        targets[row, asked - 1 : len(text) - 1] = text[asked:]
    return Answers(ids[:, :-1], targets, None, range(len(rows)), advantages=advantages)


def scores(model, ids: Tensor, asked: int, temperature: float) -> Tensor:
    logits = model(ids[None]).logits[0, asked - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, ids[asked:, None])[:, 0]


@pytest.mark.parametrize("normalisation", ["sequence", "token", "constant"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first update", "later update"])
def test_grpo_is_its_formula_over_answers_seen_one_at_a_time(normalisation, is_first):
    config = replace(GRPO, normalisation=normalisation, clip=0.1, clip_high=0.3, temperature=0.7)
    model = build(SMALL)
    reference, earlier = near(model, 1), near(model, 2)
    (twin, names), (reference_twin, _), (earlier_twin, _) = map(hugging_face_twin, (model, reference, earlier))
    rows, advantages = some_answers(3)
    expected, tokens, clipped, kl = torch.zeros(()), 0, 0, 0.0
    for (ids, asked), advantage in zip(rows, advantages):
        now = scores(twin, ids, asked, 0.7)
        before = now.detach() if is_first else scores(earlier_twin, ids, asked, 0.7).detach()
        held = scores(reference_twin, ids, asked, 0.7).detach()
        for at in range(len(now)):
            ratio = torch.exp(now[at] - before[at])
            limited = torch.clip(ratio, 0.9, 1.3)
            divergence = torch.exp(held[at] - now[at]) - (held[at] - now[at]) - 1
            loss = -(torch.min(ratio * advantage, limited * advantage) - config.beta * divergence)
            share = {"sequence": len(now), "token": 1, "constant": config.tokens}[normalisation]
            expected = expected + loss / share
            clipped += bool(limited * advantage < ratio * advantage)
            kl += float(divergence.detach())
            tokens += 1
    objective, batch = build_objective(config, True, reference), as_batch(rows, advantages)
    if not is_first:
        batch = objective.remembering(earlier, batch)
    assert objective.target_count(batch) == (tokens if normalisation == "token" else len(rows))
    compare(model, twin, names, objective.summed_loss(model, batch), expected)
    told = objective.take_told().tolist()
    assert told == [pytest.approx(kl, rel=1e-5), clipped, tokens] and (clipped > 0) is not is_first
    assert objective.take_told().tolist() == [0, 0, 0]


def test_padding_and_an_answer_without_tokens_change_nothing():
    model, (rows, advantages) = build(SMALL), some_answers(3)
    objective = build_objective(replace(GRPO, beta=0.0), True)
    alone = float(objective.summed_loss(model, as_batch(rows, advantages)).detach())
    more = as_batch([*rows, (torch.ones(16, dtype=torch.int64), 16)], torch.cat((advantages, torch.tensor([5.0]))))
    assert float(objective.summed_loss(model, more).detach()) == pytest.approx(alone, abs=1e-6)
    assert objective.target_count(more) == len(rows)


def test_advantages_are_deviations_from_the_mean_of_the_group():
    rewards = [[1.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.1], [1.0] * 5]
    for by_deviation in (True, False):
        for row, found in zip(rewards, group_advantages(torch.tensor(rewards), by_deviation).tolist()):
            scale = pstdev(row) if by_deviation and pstdev(row) else 1.0
            assert found == pytest.approx([(reward - mean(row)) / scale for reward in row], abs=1e-5)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["1+2=3"] * 3, BpeConfig(257))


def problems(tokenizer, asked: list[tuple[str, str]], first: int = 0, length: int = 40) -> Batch:
    ids = torch.full((len(asked), length + 1), tokenizer.end_of_document)
    labels = torch.zeros((len(asked), length + 1), dtype=torch.uint8)
    for row, (prompt, answer) in enumerate(asked):
        if not prompt:
            continue  # its shard is left out
        spans = ((len(prompt), 0), (len(answer), EXPECTED))
        tokens, marks = encode_sample(Document(prompt + answer, "", "", spans=spans), tokenizer)
        ids[row, : len(tokens)], labels[row, : len(tokens)] = (
            torch.tensor(tokens.tolist()),
            torch.tensor(marks.tolist()),
        )
    targets = torch.full((len(asked), length), IGNORED)
    return Batch(ids[:, :-1], targets, None, range(first, first + len(asked)), labels)


ASKED = [("1+2=", "."), ("30+12=", "[^é]*"), ("7=", "x"), ("", ""), ("5+5+5=", "..?")]


def rollouts(tokenizer, model, **changed) -> Rollouts:
    settings = replace(RolloutSettings(6, 9, 1.0, 64, True, False, 40, 5), **changed)
    verifier = Verifier("pattern", ExtractConfig())
    return Rollouts(settings, verifier, tokenizer, World(0, 0, 1, CPU), lambda: nullcontext(model))


@pytest.fixture(scope="module")
def policy(tokenizer):
    """A model that ends its answers now and then."""
    model = build(replace(SMALL, vocabulary_size=tokenizer.vocabulary_size)).eval()
    more = torch.zeros(tokenizer.vocabulary_size)
    more[tokenizer.end_of_document] = 3.5
    model.register_forward_hook(lambda module, inputs, logits: logits + more)
    return model


def test_answers_are_drawn_by_problem_and_sample_whatever_they_are_drawn_beside(tokenizer, policy):
    def texts(batches: list[Answers]) -> dict[tuple[int, ...], float]:
        found = {}
        for batch in batches:
            for ids, targets, advantage in zip(batch.tokens, batch.targets, batch.advantages):
                asked = int((targets >= 0).nonzero()[0]) + 1 if (targets >= 0).any() else 0
                answer = targets[targets >= 0].tolist()
                found[*ids[:asked].tolist(), -1, *answer] = float(advantage)
        return found

    whole = texts(rollouts(tokenizer, policy).draw([problems(tokenizer, ASKED[:3]), problems(tokenizer, ASKED[3:], 3)]))
    parts: dict[tuple[int, ...], float] = {}
    for first in (0, 2, 4):
        parts |= texts(
            rollouts(tokenizer, policy, at_once=4).draw([problems(tokenizer, ASKED[first : first + 2], first)])
        )
    assert whole == pytest.approx(parts) and len(whole) > 12
    assert texts(rollouts(tokenizer, policy, seed=6).draw([problems(tokenizer, ASKED)])).keys() != whole.keys()


def test_an_answer_is_what_sampling_writes_and_right_where_its_verifier_says_so_and_it_ended(tokenizer, policy):
    drawing, batch = rollouts(tokenizer, policy), problems(tokenizer, ASKED)
    told = [(tokenizer.decode(each.prompt), each.answer) for each in drawing.problems(batch)]
    assert told == [each for each in ASKED if each[0]]
    answers = drawing.draw([batch])
    assert [len(each.tokens) for each in answers] == [5] * 5
    found = {(tuple(ids[ids >= 0].tolist())) for each in answers for ids in each.targets}
    right = asked = ended = 0
    for problem in drawing.problems(batch):
        for sample in range(6):
            sampling = SamplingConfig(9, 1.0, top_p=1.0, seed=drawing.seed(problem, sample))
            ids = list(sample_tokens(policy, policy.config, problem.prompt, sampling, CPU, torch.float32))
            at = ids.index(tokenizer.end_of_document) if tokenizer.end_of_document in ids else None
            assert tuple(ids[: None if at is None else at + 1]) in found
            asked, ended = asked + 1, ended + (at is not None)
            right += at is not None and drawing.verifier.accepts(tokenizer.decode(ids[:at]), problem.answer)
    figures = drawing.figures(torch.zeros(3))
    assert 0 < ended < asked == 24
    assert figures["reward"] == pytest.approx(right / asked) and right > 0
    assert figures["cut"] == pytest.approx(1 - ended / asked)
    measured = drawing.measure(batch)
    assert float(measured["loss"] + measured["solved"]) == 4


def test_answers_that_are_alike_in_reward_can_be_left_out(tokenizer, policy):
    batch = problems(tokenizer, ASKED)
    whole, fewer = (rollouts(tokenizer, policy, skips_alike=skips).draw([batch]) for skips in (False, True))

    def teaching(batches: list[Answers]) -> list[tuple[list[int], float]]:
        rows = [(ids[ids >= 0].tolist(), float(a)) for each in batches for ids, a in zip(each.targets, each.advantages)]
        return sorted(row for row in rows if row[1])

    assert teaching(whole) == teaching(fewer) and len(fewer) < len(whole)
    nothing = rollouts(tokenizer, policy, skips_alike=True, tokens=1).draw([problems(tokenizer, [("7=", "never")])])
    assert [each.counted_targets for each in nothing] == [0]


def test_when_all_rewards_stay_alike_it_is_said_what_to_do(tokenizer, policy):
    drawing = rollouts(tokenizer, policy, samples=2, tokens=1)
    said = []
    for _ in range(PATIENCE + 3):
        drawing.draw([problems(tokenizer, [("7=", "never")])])
        drawing.figures(torch.zeros(3))
        said.append(drawing.warning())
    assert sum(each is not None for each in said) == 1
    assert "take easier problems, start from a model that solves some, or raise objective.samples" in said[PATIENCE - 1]


@pytest.mark.parametrize(
    ("changed", "start_from", "message"),
    [
        ({}, None, "objective=grpo needs start_from=RUN"),
        ({"verifier": "program"}, "run", "there are answer, pattern, arithmetic; programs are never run"),
        ({"samples": 1}, "run", "objective.samples=1 must be at least 2"),
        ({"clip": 1.5}, "run", "objective.clip=1.5 must lie between 0 and 1"),
        ({"normalisation": "mean"}, "run", "there are sequence, token, constant"),
        ({"beta": 0.0, "reference": "run"}, "run", "has no meaning with objective.beta=0"),
        ({"tokens": None}, "run", "objective=grpo needs objective.tokens"),
        ({"divergence": "forward"}, "run", "objective.divergence=forward has no meaning for objective=grpo"),
    ],
)
def test_settings_that_teach_nothing_are_refused(changed, start_from, message):
    with pytest.raises(UserError, match=message):
        check_objective(replace(GRPO, **changed), start_from)


@pytest.mark.parametrize(
    ("samples", "packing", "message"),
    [
        ("answers", "single", "learns from problems, and data holds answers: .* corpus.kind=problems"),
        ("problems", "best_fit", "objective=grpo needs data.packing=single"),
    ],
)
def test_data_without_problems_each_alone_is_refused(samples, packing, message):
    with pytest.raises(UserError, match=message):
        check_objective_data(GRPO, samples, True, "data", packing)
