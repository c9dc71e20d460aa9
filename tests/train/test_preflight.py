"""What is settled before a process group: what can't fit is refused, with settings that would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

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


def test_a_large_one_is_refused_before_anything_is_started(prepared):
    with pytest.raises(UserError, match=r"this can't fit: a rank will hold [0-9,.]+ GB"):
        check_memory(*prepared("model=llama_70b", "batch.sequences=4"), 0)


def test_what_is_about_to_happen_names_the_memory(prepared):
    run, config = prepared("model=nano", "batch.sequences=4")
    assert any(line.startswith("memory   ") and " MB of tensors" in line for line in run.lines(config))


def test_mends_are_settings_that_do_fit_the_least_change_first(prepared):
    run, _ = prepared("model=small_30m", "batch.sequences=64", "data.sequence_length=512", ranks=2)
    peak = run.footprint.peak.total
    found = mends(run.model, run.layout, Room(peak * 0.9, peak, False))
    assert found[0].startswith("batch.micro=16 needs ")
    assert len(found) == 3
    assert mends(run.model, run.layout, Room(1e6, 1e6, False)) == []


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
    assert ("one process has nothing to share" in line) == (run != config.zero.stage)
