"""What is settled before a process group: what can't fit is refused, with settings that would."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from compiler import needs_compiler

from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.foundation.errors import UserError
from train.memory.room import Room
from train.memory.sizes import parameter_sizes
from train.model.adapters import LoraConfig
from train.preflight import Prepared, check_memory, mends, prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig


@pytest.fixture
def prepared(small_dataset: Path, tmp_path: Path):
    def prepare(*overrides: str, ranks: int = 1) -> tuple[Prepared, TrainConfig]:
        register_schemas()
        given = [f"data.path={small_dataset}", f"run.root={tmp_path}", "tracker=none", *overrides]
        composed = compose_configuration("train", given, TrainConfig)
        return prepare_run(composed, ranks), composed.value

    return prepare


def test_a_small_model_fits_here(prepared):
    assert check_memory(*prepared("model=nano", "batch.sequences=4"), 0) is None


EXPERTS = ("model=micro_moe", "batch.sequences=4")


def test_experts_are_told_with_what_a_token_meets_of_them(prepared):
    run, config = prepared(*EXPERTS)
    met = run.parameters - 4 * 6 * 3 * 256 * 352
    assert f"experts  2 of 8: a token meets {met:,} parameters" in run.lines(config)


TYPED = ("optimizer=muon", "optimizer.base_width=64", "quantization=int8")


@pytest.mark.parametrize("typed", TYPED)
def test_what_knows_single_matrices_alone_is_refused_beside_experts(prepared, typed):
    with pytest.raises(UserError, match=r"knows single matrices alone, and model\.experts=8 are stacked"):
        prepared(*EXPERTS, typed)


@needs_compiler
def test_experts_are_not_compiled_whoever_says_that_there_are_any(prepared):
    with pytest.raises(UserError, match=r"compile=true with model\.experts=8 was never tried"):
        prepared(*EXPERTS, "compile=true")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        pytest.param(("model.document_mask=true",), "compiled=model with model.document_mask", marks=needs_compiler),
        (("zero=3",), "compiled=model with zero=3"),
        pytest.param(
            ("activation_checkpointing=true", "recomputed=host"),
            "compiled=model with recomputed=host",
            marks=needs_compiler,
        ),
        (("precision=fp8", "zero=1"), "compiled=model with precision=fp8 was never tried"),
        (("compile=false", "compiled=blocks", "deepspeed.compile.deepcompile=true"), "deepspeed.compile is set by"),
        (("compile=false",), "compiled=model says what compile=true compiles"),
        (
            ("compiled=deepcompile", "zero=2_offload"),
            "compiled=deepcompile with zero.offload_optimizer was never tried",
        ),
        (("compiled=deepcompile", "zero=2", "optimizer=muon"), "compiled=deepcompile with optimizer=muon was never"),
    ],
)
def test_what_does_not_go_into_one_graph_is_refused(prepared, typed, said):
    with pytest.raises(UserError, match=re.escape(said)):
        prepared("model=nano", "batch.sequences=4", "compile=true", "compiled=model", *typed)


@needs_compiler
def test_a_graph_with_zero_in_it_has_its_stage_on_one_process_too(prepared):
    run, _ = prepared("model=nano", "batch.sequences=4", "zero=2", "compile=true", "compiled=deepcompile")
    assert run.zero.stage == run.layout.zero.stage == 2


def test_ranks_that_share_sequences_count_once_in_the_batch_and_each_in_the_layout(prepared):
    run, config = prepared("model=nano", "batch.sequences=4", "batch.micro=2", "parallel.sequence=2", ranks=4)
    assert (run.batch.accumulation, run.batch.ranks, run.layout.ranks) == (1, 2, 4)
    assert run.layout.tokens == 2 * config.data.sequence_length // 2
    assert any("each of them 2 processes that share its sequences" in line for line in run.lines(config))
    with pytest.raises(UserError, match=r"parallel\.sequence=2 does not divide the 3 ranks"):
        prepared("model=nano", "batch.sequences=4", "parallel.sequence=2", ranks=3)


def test_ranks_that_split_blocks_count_once_in_the_batch_and_partition_among_those_alike(prepared):
    run, config = prepared("model=nano", "batch.sequences=4", "batch.micro=2", "parallel.tensor=2", "zero=1", ranks=4)
    assert (run.batch.accumulation, run.batch.ranks) == (1, 2)
    assert (run.layout.ranks, run.layout.processes, run.zero.stage) == (2, 4, 1)
    assert any("each of them 2 processes that split each block" in line for line in run.lines(config))
    alone, _ = prepared("model=nano", "batch.sequences=4", "batch.micro=2", "zero=1", ranks=2)
    assert run.footprint.peak.total < alone.footprint.peak.total and run.trained == alone.trained
    assert prepared("model=nano", "batch.sequences=4", "parallel.tensor=2", "zero=3", ranks=2)[0].zero.stage == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer=muon", "parallel.tensor=2 with optimizer=muon, which makes whole matrices orthogonal"),
        ("quantization=int8", "parallel.tensor=2 with quantization.bits=8, which"),
        ("model.hidden_width=351", "parallel.tensor=2 does not divide model.hidden_width=351"),
        ("compile=true", "compile=true with parallel.tensor=2 was never tried"),
    ],
)
def test_what_needs_whole_matrices_is_refused_where_blocks_are_split(prepared, typed, said):
    with pytest.raises(UserError, match=re.escape(said)):
        prepared("model=nano", "batch.sequences=4", "parallel.tensor=2", typed, ranks=2)


def test_a_large_one_is_refused_before_anything_is_started(prepared):
    with pytest.raises(UserError, match=r"this can't fit: a rank will hold [0-9,.]+ GB"):
        check_memory(*prepared("model=llama_70b", "batch.sequences=4"), 0)


def test_what_is_about_to_happen_names_the_memory(prepared):
    run, config = prepared("model=nano", "batch.sequences=4")
    assert any(line.startswith("memory   ") and " MB of tensors" in line for line in run.lines(config))


def test_mends_are_settings_that_do_fit_the_least_change_first(prepared):
    run, config = prepared("model=small_30m", "batch.sequences=64", "data.sequence_length=512", ranks=2)
    peak = run.footprint.peak.total
    found = mends(run.model, run.layout, Room(peak * 0.9, peak, False), config)
    assert found[0].startswith("batch.micro=16 needs ")
    assert len(found) == 3
    assert mends(run.model, run.layout, Room(1e6, 1e6, False), config) == []


def test_frozen_weights_are_counted_and_adapters_need_less_than_full_tuning(prepared):
    run, _ = prepared("model=nano", "batch.sequences=4")
    adapted = parameter_sizes(run.model, lora=LoraConfig(rank=2))
    layers = 2 * (2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 352)) * 2  # of nano: rank 2, two layers
    assert adapted.total == layers
    assert run.trained == run.parameters and run.frozen_bytes == 0
    with pytest.raises(UserError, match="this can't fit"):
        check_memory(replace(run, frozen_bytes=1 << 50), TrainConfig(), 0)


@pytest.mark.parametrize(
    ("overrides", "ranks", "run"),
    [
        (["zero=0"], 1, 0),
        (["zero=1"], 1, 0),
        (["zero=3"], 1, 0),
        (["zero=3"], 2, 3),
        (["zero=2_offload"], 1, 2),
        (["zero=1", "precision=bf16"], 1, 1),
        (["zero=2", "deepspeed.zero_optimization.round_robin_gradients=true"], 1, 2),
    ],
)
def test_one_process_in_float32_shares_with_nobody_and_says_so(prepared, overrides, ranks, run):
    plan, config = prepared(*overrides, "batch.sequences=2", ranks=ranks)
    assert plan.zero.stage == plan.layout.zero.stage == run
    line = next(line for line in plan.lines(config) if line.startswith("engine"))
    assert ("nobody to share with" in line) == (run != config.zero.stage)
