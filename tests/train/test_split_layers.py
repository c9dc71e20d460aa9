"""Ranks that split each block learn what one process does with whole ones, at every stage, and refuse what can't be."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from engine_runs import EXPERTS, MODEL
from soak import long
from test_engine import plain_training

from data_pipeline.foundation.errors import UserError
from train.checkpoint.load import load_transformer
from train.checkpoint.state_file import StateFile
from train.model.initialisation import initialise_weights
from train.model.split_layers import SplitLayers, split_axis
from train.model.transformer import Transformer
from train.parallel import ParallelConfig, check_parallel, check_split


@pytest.fixture(scope="module")
def plain() -> dict[int, float]:
    return plain_training(20)[0]


@pytest.mark.parametrize("stage", range(4))
def test_twenty_steps_are_those_of_whole_blocks(trainings, plain, stage):
    """`plain` is a single process without DeepSpeed; the norm tells of gradients what losses can't."""
    assert trainings.losses(2, f"split {stage}") == pytest.approx(plain, abs=2e-5)
    norms, expected = trainings.norms(2, f"split {stage}"), trainings.norms(1, "stage 0")
    assert norms == pytest.approx({step: expected[step] for step in norms}, rel=1e-4)


@long
@pytest.mark.parametrize("stage", range(4))
def test_two_pairs_learn_the_same_and_resume_bit_for_bit(split_by_pairs, plain, stage):
    assert split_by_pairs.losses(4, f"pairs {stage}") == pytest.approx(plain, abs=2e-5)
    assert split_by_pairs.losses(4, f"pairs {stage} resumed") == {
        step: loss for step, loss in split_by_pairs.losses(4, f"pairs {stage}").items() if step > 10
    }


@long
def test_copies_of_parts_are_compared_among_those_that_hold_them(split_by_pairs):
    assert "part 1 of blocks.0.feed_forward.up.weight" in split_by_pairs.by_ranks[4]["pairs corrupted"]["corruption"]


def test_what_ranks_read_together_is_counted_once(trainings):
    assert trainings.by_ranks[2]["split 1"]["targets"]["1"] == trainings.by_ranks[1]["stage 1"]["targets"]["1"]


@pytest.mark.parametrize("stage", [0, 3])
def test_each_rank_works_for_its_own_experts_and_routers_learn_alike(trainings, stage):
    whole = trainings.losses(1, "experts 0")
    losses = trainings.losses(2, f"split experts {stage}")
    assert losses == pytest.approx({step: whole[step] for step in losses}, abs=2e-5)
    split, alone = (
        trainings.by_ranks[ranks][name]["figures"] for ranks, name in ((2, f"split experts {stage}"), (1, "experts 0"))
    )
    for step, figures in split.items():
        assert figures == pytest.approx(alone[step], rel=1e-3)


@pytest.mark.parametrize(
    ("split", "whole"),
    [("odd", "odd"), ("documents", "documents"), ("dpo", "dpo 0"), ("offload", "stage 0")],
)
def test_options_of_the_model_and_objectives_change_nothing(trainings, split, whole):
    """`odd` has norms of heads, which each rank has a part of, biases, and recomputes what is cheap."""
    losses, expected = trainings.losses(2, f"split {split}"), trainings.losses(1, whole)
    assert losses == pytest.approx({step: expected[step] for step in losses}, abs=2e-5)


def test_bf16_stays_close_to_fp32(trainings, plain):
    losses = trainings.losses(2, "split bf16")
    assert losses == pytest.approx({step: plain[step] for step in losses}, abs=0.02)


def test_a_resumed_training_is_the_same_bit_for_bit(trainings):
    assert trainings.losses(2, "split resumed") == {
        step: loss for step, loss in trainings.losses(2, "split 1").items() if step > 10
    }
    first, again = (load_transformer(trainings.checkpoint(kind, 20), torch.device("cpu"))
                    for kind in ("split", "split-resumed"))  # fmt: skip
    for (name, one), other in zip(first.named_parameters(), again.parameters()):
        assert torch.equal(one, other), name


def test_it_goes_on_with_whole_blocks_and_whole_ones_with_split(trainings):
    later = {step: loss for step, loss in trainings.losses(2, "split 1").items() if step > 10}
    assert trainings.losses(2, "split to whole") == pytest.approx(later, abs=2e-5)
    losses = trainings.losses(2, "whole to split")
    expected = trainings.losses(1, "stage 0")
    assert losses == pytest.approx({step: expected[step] for step in range(21, 26)}, abs=2e-5)


def test_a_checkpoint_has_every_element_once_and_whole_shapes(trainings):
    model = Transformer(MODEL)
    counted: dict[str, int] = {}
    for path in sorted(trainings.checkpoint("split", 10).glob("state-*")):
        for piece in StateFile(path).pieces:
            counted[piece.key] = counted.get(piece.key, 0) + piece.elements
            assert piece.shape == tuple(model.get_parameter(piece.parameter).shape)
            assert (piece.columns is not None) == (split_axis(piece.parameter) == 1)
    for name, parameter in model.named_parameters():
        assert {counted[f"{name}/{kind}"] for kind in ("master", "exp_avg", "exp_avg_sq")} == {parameter.numel()}


@pytest.mark.parametrize("name", ["split 0", "split 3", "split experts 3", "split odd"])
def test_a_whole_copy_computes_what_the_ranks_do_together(trainings, name):
    together, whole = trainings.by_ranks[2][name]["whole copy"]
    assert whole == pytest.approx(together, rel=1e-5)


def test_a_corrupted_copy_of_what_is_whole_on_all_is_found(trainings):
    assert "different copies of norm.weight/master" in trainings.by_ranks[2]["split corrupted"]["corruption"]


@pytest.mark.parametrize("config", [MODEL, EXPERTS])
def test_parts_make_up_the_whole(config):
    whole = Transformer(config)
    initialise_weights(whole, config, 0)
    for number in range(2):
        split = SplitLayers(None, number, 2)
        for (name, one), part in zip(whole.named_parameters(), Transformer(config, split).parameters()):
            assert split.part(name, one).shape == part.shape, name
            shape, start, columns = split.located(name, part.shape)
            assert shape == one.shape
            own = one if columns is None else one[:, slice(*columns)]
            assert torch.equal(own.flatten()[start : start + part.numel()], split.part(name, one).flatten())


@pytest.mark.parametrize(
    ("config", "ranks", "objective", "message"),
    [
        (ParallelConfig(tensor=0), 2, "pretrain", "parallel.tensor=0 must be at least 1"),
        (ParallelConfig(tensor=2), 3, "pretrain", "parallel.tensor=2 does not divide the 3 ranks"),
        (ParallelConfig(2, 2), 4, "pretrain", "parallel.tensor=2 with parallel.sequence=2"),
        (ParallelConfig(tensor=2), 2, "grpo", "parallel.tensor=2 with objective=grpo"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(config, ranks, objective, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_parallel(config, ranks, objective)
    check_parallel(ParallelConfig(tensor=2), 4, "dpo")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(MODEL, heads=3, key_value_heads=3), "does not divide model.heads=3"),
        (replace(MODEL, key_value_heads=1), "does not divide model.key_value_heads=1"),
        (replace(MODEL, hidden_width=97), "does not divide model.hidden_width=97"),
        (replace(EXPERTS, experts=5), "does not divide model.experts=5"),
        (replace(EXPERTS, shared_width=33), "does not divide model.shared_width=33"),
    ],
)
def test_models_that_do_not_divide_are_refused_by_name(model, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_split(ParallelConfig(tensor=2), model, {})
    check_split(ParallelConfig(), model, {"optimizer=muon": "needs whole matrices"})
    with pytest.raises(UserError, match=re.escape("parallel.tensor=2 with optimizer=muon, which needs")):
        check_split(ParallelConfig(tensor=2), MODEL, {"optimizer=muon": "needs whole matrices"})
