"""The verb: what it recommends, refuses, writes and shows."""

from __future__ import annotations

import json
import re

import pytest

from data_pipeline.foundation.configuration import compose_configuration
from launch.plan.command import VERB
from launch.plan.plan import make_plan
from launch.plan.recommendation import recommend
from launch.plan.settings import PlanConfig, check_plan, register_plan
from train.schemas import register_schemas
from train.settings import TrainConfig, check_settings

LLAMA = ("model=llama_8b", "data.vocabulary=128256", "data.sequence_length=8192")


def config(*overrides: str) -> PlanConfig:
    register_plan()
    value = compose_configuration("plan", overrides, PlanConfig).value
    check_plan(value)
    return value


@pytest.mark.parametrize("device", ["a100", "h100", "h200", "b200", "mi300x"])
def test_what_is_recommended_fits_and_nothing_that_fits_is_much_faster(device):
    found = recommend(config(*LLAMA, f"device={device}", "nodes=8"))
    chosen = found.chosen
    assert chosen is not None and chosen.fits
    assert chosen.tokens_per_second >= 0.98 * max(o.tokens_per_second for o in found.shown if o.fits)
    assert chosen.layout.micro * chosen.layout.accumulation * chosen.layout.ranks == found.sequences
    assert 0.1 < chosen.mfu < 0.7


def test_more_memory_is_never_slower():
    small, large = (recommend(config(*LLAMA, "nodes=8", f"device.memory={size}")).chosen for size in (80e9, 160e9))
    assert small and large and large.tokens_per_second >= small.tokens_per_second


def test_one_process_needs_no_partitions_in_float32():
    found = recommend(config("model=nano", "device=cpu", "precision=fp32", "devices_per_node=1",
                             "data.sequence_length=256", "batch.sequences=8"))  # fmt: skip
    assert found.chosen and found.chosen.layout.zero.stage == 0


def test_stages_that_deepspeed_cannot_run_are_left_out():
    assert {option.layout.zero.stage for option in recommend(config(*LLAMA)).shown} == {1, 2, 3}


def test_where_nothing_fits_the_least_is_named_and_offload_is_offered(capsys):
    assert VERB.main([*LLAMA, "nodes=1", "devices_per_node=1", "device=a100"]) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"nothing fits: memory: the least, ZeRO \d checkpointing .* needs [\d.]+ GB of the A100's 80 GB", said
    )
    assert "offload=true" in said


def test_offload_lets_it_fit_and_says_what_the_host_needs():
    plan = make_plan(config(*LLAMA, "nodes=1", "devices_per_node=1", "device=a100", "offload=true"))
    chosen = plan.recommendation.chosen
    assert chosen and chosen.layout.zero.offload_optimizer
    assert chosen.footprint.host > 12 * 8.03e9


def test_time_and_cost_are_tokens_over_speed_and_goodput():
    plan = make_plan(config(*LLAMA, "nodes=8", "tokens=1e12", "price=2"))
    chosen, run = plan.recommendation.chosen, plan.run
    assert chosen and run
    assert run.seconds == pytest.approx(1e12 / (64 * chosen.tokens_per_second) / run.goodput.share, rel=1e-3)
    assert run.cost == pytest.approx(2 * 64 * run.seconds / 3600)


def test_applied_settings_are_those_of_the_recommendation_and_train_takes_them(tmp_path, capsys):
    folder = tmp_path / "planned"
    assert VERB.main([*LLAMA, "nodes=8", f"folder={folder}", "--apply", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    register_schemas()
    given = ["experiment=planned", "data.path=datasets/web"]
    train = compose_configuration("train", given, TrainConfig, [folder]).value
    check_settings(train)
    chosen = told["chosen"]
    assert (train.zero.stage, train.batch.micro, train.precision.kind) == (chosen["stage"], chosen["micro"], "bf16")
    assert train.activation_checkpointing == chosen["activation_checkpointing"]
    assert (train.batch.sequences, train.steps) == (told["sequences"], told["run"]["steps"])
    assert train.checkpoint.every == told["run"]["checkpoint_every"]
    assert train.model.name == "llama_8b" and train.model.width == 4096


def test_sharing_sequences_lets_a_context_fit_that_one_device_cannot_hold():
    long = ("model=llama_8b", "data.vocabulary=128256", "model.maximum_length=524288", "data.sequence_length=524288")
    alone, shared = (recommend(config(*long, "nodes=4", f"parallel.sequence={ranks}")) for ranks in (1, 8))
    assert alone.chosen is None
    assert shared.chosen and shared.chosen.layout.tokens == 524288 // 8
    assert shared.sequences == 4


def test_splitting_blocks_lets_a_model_fit_that_one_device_cannot_hold_at_a_stage():
    large = ("model=llama_70b", "data.vocabulary=128256", "nodes=8", "stages=[1]", "activation_checkpointing=true")
    alone, split = (recommend(config(*large, f"parallel.tensor={ranks}")) for ranks in (1, 8))
    assert alone.chosen is None
    assert split.chosen and (split.chosen.layout.ranks, split.chosen.layout.processes) == (8, 64)
    assert split.sequences % 8 == 0 and 0 < split.chosen.mfu < 1
    assert split.chosen.footprint.peak.optimizer < alone.shown[0].footprint.peak.optimizer * 1.5


def test_what_is_applied_shares_sequences_as_planned(tmp_path):
    folder = tmp_path / "planned"
    assert VERB.main([*LLAMA, "nodes=2", "parallel.sequence=2", f"folder={folder}", "--apply", "--json"]) == 0
    register_schemas()
    train = compose_configuration("train", ["experiment=planned", "data.path=d"], TrainConfig, [folder]).value
    assert train.parallel.sequence == 2 and train.batch.sequences % 8 == 0


def test_twenty_tokens_are_planned_for_each_parameter_that_a_token_meets(capsys):
    assert VERB.main(["model=mixtral_8x7b", "nodes=8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["active_parameters"] < 0.3 * told["parameters"]
    assert told["run"]["tokens"] == 20 * told["active_parameters"]


def test_json_adds_up(capsys):
    assert VERB.main([*LLAMA, "nodes=8", "--json"]) == 0
    for option in json.loads(capsys.readouterr().out)["options"]:
        memory, step = option["memory"], option["step"]
        parts = ("parameters", "gradients", "optimizer", "activations", "loss", "buffers")
        assert sum(memory[part] for part in parts) == memory["peak"] < memory["needed"]
        times = ("matrix", "attention", "moved", "recomputed", "communication", "update")
        assert sum(step[part] for part in times) == pytest.approx(step["total"])


def test_the_page_shows_every_option_runs_nothing_and_takes_names_as_text(tmp_path, capsys):
    page = tmp_path / "plan.html"
    assert VERB.main([*LLAMA, "nodes=8", "model.name='<script>x</script>'", f"output={page}"]) == 0
    html = page.read_text()
    assert html.count('class="option') == 6 and html.count("recommended") == 1
    assert "<script" not in html and "&lt;script&gt;x" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "▸ ZeRO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["device=h101"], "Did you mean `h100`?"),
        (["network=carrier_pigeon"], "`network` has no option"),
        (["nodes=0"], "nodes=0 must be at least 1"),
        (["device.memory=0"], "device.memory=0.0 must be above 0"),
        (["zero.stage=3"], "narrow them with stages"),
        (["stages=[4]"], "must be some of 0, 1, 2 and 3"),
        (["batch.sequences=7", "nodes=2"], "does not divide by 16 ranks"),
        (["data.sequence_length=100000"], "longer than the model allows"),
        (["output=/nowhere/plan.html"], "there is no folder /nowhere"),
        (["parallel.sequence=3"], "parallel.sequence=3 does not divide the 8 ranks"),
        (["parallel.sequence=16", "nodes=2"], "does not divide model.key_value_heads=8"),
        (["parallel.tensor=2", "optimizer=muon"], "parallel.tensor=2 with optimizer=muon"),
        (["parallel.tensor=2", "parallel.sequence=2"], "parallel.tensor=2 with parallel.sequence=2"),
        (["stages=[0]"], "no stage that was asked for can be run"),
    ],
)
def test_mistakes_are_named(typed, said, capsys):
    code = (
        VERB.main([*LLAMA, *typed]) if "data.sequence_length" not in typed[0] else VERB.main(["model=llama_8b", *typed])
    )
    told = capsys.readouterr()
    assert code in (1, 2) and said in told.out + told.err
    assert "Traceback" not in told.err
