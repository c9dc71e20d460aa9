"""Ranks that share sequences learn what one process does with whole ones, at every stage, and refuse what can't be."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from engine_runs import MODEL
from test_engine import plain_training

from data_pipeline.foundation.errors import UserError
from data_pipeline.loader import Batch
from train.model.shared_sequence import SharedSequence
from train.model.transformer import Transformer
from train.parallel import ParallelConfig, check_parallel, check_shares
from train.place import Place


@pytest.fixture(scope="module")
def plain() -> dict[int, float]:
    return plain_training(20)[0]


@pytest.mark.parametrize("stage", range(4))
def test_twenty_steps_are_those_of_whole_sequences(trainings, plain, stage):
    """`plain` is a single process without DeepSpeed; the norm tells of gradients what losses can't."""
    assert trainings.losses(2, f"shared {stage}") == pytest.approx(plain, abs=2e-5)
    norms, expected = trainings.norms(2, f"shared {stage}"), trainings.norms(1, "stage 0")
    assert norms == pytest.approx({step: expected[step] for step in norms}, rel=1e-4)


def test_targets_of_parts_are_counted_once(trainings):
    assert trainings.by_ranks[2]["shared 1"]["targets"]["1"] == trainings.by_ranks[1]["stage 1"]["targets"]["1"]


def test_micro_batches_and_recomputing_change_nothing(trainings, plain):
    losses = trainings.losses(2, "shared recomputed")
    assert losses == pytest.approx({step: plain[step] for step in losses}, abs=2e-5)


def test_documents_that_end_anywhere_are_seen_alone(trainings):
    assert trainings.losses(2, "shared documents") == pytest.approx(trainings.losses(1, "documents"), abs=2e-5)


def test_a_teacher_reads_the_same_parts(trainings):
    assert trainings.losses(2, "shared forward") == pytest.approx(trainings.losses(1, "forward 0"), abs=2e-5)


def test_experts_are_balanced_over_whole_sequences(trainings):
    assert trainings.losses(2, "shared experts") == pytest.approx(trainings.losses(1, "experts 0"), abs=2e-5)
    shared, whole = (
        trainings.by_ranks[ranks][name]["figures"] for ranks, name in ((2, "shared experts"), (1, "experts 0"))
    )
    for step, figures in whole.items():
        assert shared[step] == pytest.approx(figures, rel=1e-3)


def test_bf16_stays_close_to_fp32(trainings, plain):
    losses = trainings.losses(2, "shared bf16")
    assert losses == pytest.approx({step: plain[step] for step in losses}, abs=0.02)


def test_a_resumed_training_is_the_same_bit_for_bit_and_goes_on_with_whole_sequences(trainings):
    later = {step: loss for step, loss in trainings.losses(2, "shared 1").items() if step > 10}
    assert trainings.losses(2, "shared resumed") == later
    assert trainings.losses(2, "shared to whole") == pytest.approx(later, abs=2e-5)


def test_a_part_of_a_batch_has_its_tokens_and_the_ends_of_whole_sequences():
    tokens = torch.arange(12).view(2, 6)
    batch = Batch(tokens, tokens + 1, [[4, 6], [6]], range(2))
    parts = [Place(0, 1, SharedSequence(None, number, 3)).part(batch) for number in range(3)]
    assert torch.equal(torch.cat([part.tokens for part in parts], 1), batch.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts], 1), batch.targets)
    assert all(part.document_ends == batch.document_ends for part in parts)


def test_a_model_with_a_cache_has_whole_sequences_whoever_shares_them_in_training():
    """So samples are written while a run trains; a group of None could exchange nothing."""
    from train.model.attention import KeyValueCache

    model, tokens = Transformer(MODEL).eval(), torch.arange(8).view(1, 8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    expected = model(tokens)
    model.share_sequences(SharedSequence(None, 1, 2))
    cache = KeyValueCache(MODEL, 1, 8, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(model(tokens, cache=cache), expected)


@pytest.mark.parametrize(
    ("sequence", "ranks", "objective", "message"),
    [
        (0, 2, "pretrain", "parallel.sequence=0 must be at least 1"),
        (2, 3, "pretrain", "parallel.sequence=2 does not divide the 3 ranks"),
        (2, 2, "dpo", "parallel.sequence=2 with objective=dpo, which compares whole answers"),
        (2, 2, "grpo", "objective=grpo, which writes whole answers"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(sequence, ranks, objective, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_parallel(ParallelConfig(sequence), ranks, objective)
    check_parallel(ParallelConfig(1), ranks, objective)


@pytest.mark.parametrize(
    ("model", "length", "message"),
    [
        (replace(MODEL, heads=3, key_value_heads=3), 32, "does not divide model.heads=3"),
        (replace(MODEL, key_value_heads=1), 32, "does not divide model.key_value_heads=1"),
        (MODEL, 31, "parallel.sequence=2 does not divide sequences of 31 tokens"),
    ],
)
def test_heads_and_sequences_that_do_not_divide_are_refused_by_name(model, length, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_shares(ParallelConfig(2), model, [length])
    check_shares(ParallelConfig(1), model, [length])
    with pytest.raises(UserError, match=re.escape("does not divide teacher.heads=4")):
        check_shares(ParallelConfig(3), MODEL, [], "teacher")
