"""A run whose processes split each block learns, measures and writes what one does, also when it is killed."""

from __future__ import annotations

import pytest
from small_runs import MEASURED, assert_same_result, learnt, samples

SPLIT = ("parallel.tensor=2", "zero=1")


def test_a_killed_run_goes_on_bit_for_bit_and_its_checkpoints_are_whole(trainings, undisturbed, tmp_path, headrace):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill = {"point": "state", "count": 2, "delay": 0, "victim": 1, "suspend": False}
    assert -9 in trainings.train(killed, *SPLIT, ranks=2, kill=kill)
    for folder in (killed, whole):
        assert trainings.train(folder, *SPLIT, ranks=2) == [0, 0]
    run = killed / "runs" / "run"
    assert_same_result(run, whole / "runs" / "run")
    found, expected = learnt(run), learnt(undisturbed(1))
    for key in MEASURED:
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=1e-4), key
    assert samples(run) == samples(undisturbed(1))
    assert headrace("generate", f"source={run}", "prompt=The", "tokens=4")[0] == 0
    assert headrace("verify", f"source={run}")[0] == 0
