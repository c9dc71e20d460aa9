"""The report of a machine's GPUs, made here of a small layout without one."""

from __future__ import annotations

import json

from benchmarks.gpu_check import CPU_CASES, GPU_CASES, check, predict


def test_a_layout_is_reported_as_measured_and_as_planned(small_dataset, tmp_path):
    check(CPU_CASES[:1], 1, "cpu", small_dataset, tmp_path, ["11 passed in 70 s"])
    told = json.loads((tmp_path / "gpu-check.json").read_text())
    (row,) = told["layouts"]
    planned = predict(CPU_CASES[0], 1, "cpu")
    assert row["predicted_rate"] == planned["tokens_per_second_per_device"]
    assert row["predicted_memory"] == planned["memory"]["peak"]
    assert row["rate"] > 0 and 0 < row["mfu"] < 1.5 and row["memory"] > row["predicted_memory"]
    report = (tmp_path / "gpu-check.md").read_text()
    assert f"| {CPU_CASES[0].name} | {row['rate']:,.0f} | {row['predicted_rate']:,.0f} |" in report
    assert "11 passed in 70 s" in report


def test_what_fails_is_reported_with_its_reason(tmp_path):
    check(CPU_CASES[:1], 1, "cpu", tmp_path / "nowhere", tmp_path, [])
    (said,) = json.loads((tmp_path / "gpu-check.json").read_text())["layouts"]
    assert said.startswith(CPU_CASES[0].name) and "nowhere" in said


def test_every_layout_for_gpus_is_one_that_the_planner_knows():
    for case in {(case.model, case.stage, case.recomputes): case for case in GPU_CASES}.values():
        option = predict(case, 8, "h100")
        assert (option["stage"], option["micro"], option["accumulation"]) == (
            case.stage,
            case.micro,
            case.sequences // case.micro,
        )
