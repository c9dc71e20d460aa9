"""`headrace profile` runs what `train` would, tells where a step's time goes, and leaves nothing but its folder."""

from __future__ import annotations

import json

import pytest
from commands import python, run_command, torchrun

from data_pipeline.foundation.errors import UserError
from train.profile.measure import Profile
from train.profile.settings import ProfilingConfig, check_profile
from train.profile.table import advice

MODEL = ("model=nano", "model.width=64", "model.heads=4", "model.hidden_width=96", "data.sequence_length=32")
STEPS = ("profile.warm_up=1", "profile.steps=2", "profile.traced=1", "batch.sequences=4")


@pytest.mark.parametrize("ranks", [1, 2])
def test_parts_add_up_operators_are_named_and_the_trace_opens(small_dataset, tmp_path, ranks):
    arguments = (f"data.path={small_dataset}", *MODEL, *STEPS, f"zero={ranks - 1}", "--json")
    start = python("-m", "launch.command", "profile") if ranks == 1 else torchrun(2, "-m", "train.profile.command")
    finished = run_command([*start, *arguments], tmp_path)
    assert finished.code == 0, finished.err
    told = json.loads(finished.out)
    assert told == json.loads((tmp_path / "profile" / "profile.json").read_text())
    parts = told["parts"]
    for part in ("data", "forward", "backward", "optimizer", "logging", "checkpoint"):
        assert parts[part] > 0, part
    assert (parts["communication"] > 0) == (ranks == 2)
    assert any("mm" in each["name"] for each in told["operators"])
    assert told["tokens"] == 4 * 32
    for rank in range(ranks):
        name = "trace.json" if ranks == 1 else f"trace-{rank:05d}.json"
        events = json.loads((tmp_path / "profile" / name).read_text())["traceEvents"]
        assert {"part forward", "part backward"} <= {event.get("name") for event in events}
    assert [each.name for each in tmp_path.iterdir()] == ["profile"], "a run folder was left"


@pytest.mark.parametrize("setting", ["warm_up", "steps", "traced", "operators"])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(UserError, match=f"profile.{setting}=-1 must be at least"):
        check_profile(ProfilingConfig(**{setting: -1}))


def found(**seconds: float) -> Profile:
    parts = dict.fromkeys(("data", "communication", "optimizer", "logging", "other", "checkpoint"), 0.0)
    parts |= {"forward": 1.0, "backward": 2.0} | seconds
    return Profile(1, 100, 3.0, None, parts, [], 0.0, 0.0, {}, "", 0, "")


@pytest.mark.parametrize("part", ["data", "communication", "optimizer", "logging", "other"])
def test_a_part_that_takes_a_third_of_a_step_gets_advice_and_no_other_does(part):
    assert advice(found()) == []
    assert [line.split(":")[0] for line in advice(found(**{part: 1.5}))] == [part]
