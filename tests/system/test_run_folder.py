"""The folder of a run: one job at a time, whatever an earlier one left there, and a disk that can't be written."""

from __future__ import annotations

import os

import pytest
from commands import read_rows
from kills import said
from small_runs import SETTINGS, STEPS, events, learnt, the_line

from train.run_lock import LOCK, hold_run


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_job_in_a_run_folder_is_refused_in_one_line_and_changes_nothing(trainings, tmp_path, ranks):
    with hold_run(tmp_path / "runs" / "run"):
        assert trainings.train(tmp_path, "zero=1", ranks=ranks) == [2] * ranks
        line = the_line(said(tmp_path))
        assert "runs/run is in use" in line and f"process {os.getpid()} on {os.uname().nodename}" in line
        assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == [LOCK]


def test_what_a_kill_leaves_before_the_settings_stand_is_no_strangers_folder(trainings, tmp_path):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    for name in (LOCK, "overrides.yaml", "environment.json", ".config.yaml.host-1.tmp"):
        (run / name).write_text("")
    assert trainings.train(tmp_path, "zero=1", "stop_after=2") == [75], said(tmp_path)


def test_torn_lines_and_links_that_lead_nowhere_do_not_keep_a_run_from_going_on(trainings, tmp_path):
    run = tmp_path / "runs" / "run"
    assert trainings.train(tmp_path, "zero=1", "stop_after=7") == [75], said(tmp_path)
    for name, tail in (
        ("metrics.jsonl", b'{"step": 8, "lo'),
        ("events.jsonl", b'{"kind": "fai\0\0\0'),
        ("samples.jsonl", b"\xff"),
    ):
        with open(run / name, "ab") as file:
            file.write(tail)
    # Headrace looks for what is newest, and believes no pointer.
    (run / "checkpoints" / "latest").write_text("step-00000002")
    (run / "latest").symlink_to("nowhere")
    assert trainings.train(tmp_path, "zero=1") == [0], said(tmp_path)
    assert [row["step"] for row in learnt(run)] == list(range(1, STEPS + 1))
    assert [row["checkpoint"] for row in read_rows(run / "events.jsonl") if row["kind"] == "resumed"] == [
        "step-00000007"
    ]
    assert events(run)[-1] == "finished"


def test_a_root_that_can_not_be_written_is_a_failure_by_name(trainings, tmp_path):
    # Not even root may make a folder there.
    assert trainings.train(tmp_path, "zero=1", "run.root=/sys/headrace") == [1]
    assert "/sys/headrace/run can't be written" in the_line(said(tmp_path))


@pytest.mark.parametrize("content", ["{", "- a list", "seed: !!python/object/apply:os.getcwd []", "\0"])
def test_settings_of_a_run_that_can_not_be_read_are_named(headrace, small_dataset, tmp_path, content):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(content)
    code, error = headrace("train", f"data.path={small_dataset}", "run.name=run", *SETTINGS, "--dry-run")
    assert code == 1
    assert "runs/run/config.yaml can't be read" in the_line(error)
