"""What a run's own record says is to be done, whatever its launcher ended with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.verdict import Attempts, events_bytes, judge, main


def write_events(run: Path, *kinds: str, **details: str) -> None:
    run.mkdir(exist_ok=True)
    with open(run / "events.jsonl", "a") as file:
        for kind in kinds:
            file.write(json.dumps({"kind": kind, "step": 1, **details}) + "\n")


def write_checkpoint(run: Path, step: int) -> None:
    (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("kind", "reason", "action", "code"),
    [
        ("finished", "", "done", 0),
        ("preempted", "SIGUSR1", "resume", 75),
        ("preempted", "stop_after=3", "stopped", 75),
        ("hung", "no step has ended", "restart", 69),
        ("rank_lost", "rank 1", "restart", 69),
        ("failed", "RuntimeError", "restart", 69),
    ],
)
def test_the_last_end_since_the_start_decides(tmp_path, kind, reason, action, code):
    write_events(tmp_path, "started", "finished")
    since = events_bytes(tmp_path)
    write_events(tmp_path, "resumed", "checkpoint_saved")
    write_events(tmp_path, kind, reason=reason)
    verdict, _ = judge(tmp_path, since, 1, Attempts(), most=3)
    assert (verdict.action, verdict.code) == (action, code)


def test_an_end_from_before_counts_for_nothing(tmp_path):
    write_events(tmp_path, "started", "preempted")
    verdict, _ = judge(tmp_path, events_bytes(tmp_path), 137, Attempts(), most=1)
    assert verdict.action == "restart" and "ended with 137 and recorded nothing" in verdict.reason


def test_a_launcher_that_ended_well_needs_no_record(tmp_path):
    assert judge(tmp_path, 0, 0, Attempts(), most=1)[0].action == "done"


def test_a_torn_line_is_no_end(tmp_path):
    write_events(tmp_path, "started", "hung")
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"kind": "finis')
    assert judge(tmp_path, 0, 1, Attempts(), most=1)[0].action == "restart"


def test_restarts_are_bounded_while_there_is_no_new_checkpoint(tmp_path):
    attempts, actions = Attempts(), []
    for _ in range(3):
        write_events(tmp_path, "started", "hung", reason="stuck")
        verdict, attempts = judge(tmp_path, 0, 1, attempts, most=2)
        actions.append(verdict.action)
    assert actions == ["restart", "restart", "failed"] and verdict.code == 69
    write_checkpoint(tmp_path, 10)
    assert judge(tmp_path, 0, 1, attempts, most=2)[0].action == "restart"


def test_without_restarts_the_first_failure_is_the_last(tmp_path):
    write_events(tmp_path, "started", "failed", reason="Failure: full")
    verdict, _ = judge(tmp_path, 0, 1, Attempts(), most=0)
    assert (verdict.action, verdict.code) == ("failed", 1) and "full" in verdict.reason


def test_a_cancelled_run_stays_stopped_unless_it_had_finished(tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "cancelled").touch()
    write_events(tmp_path, "started", "preempted", reason="SIGUSR1")
    assert judge(tmp_path, 0, 1, Attempts(), most=3)[0].action == "stopped"
    write_events(tmp_path, "resumed", "finished")
    assert judge(tmp_path, 0, 0, Attempts(), most=3)[0].action == "done"


def test_batch_scripts_count_attempts_over_starts(tmp_path, capsys):
    (tmp_path / "launch").mkdir()
    said = []
    for _ in range(3):
        main(["begin", str(tmp_path)])
        since = capsys.readouterr().out.strip()
        write_events(tmp_path, "started", "rank_lost", reason="rank 1")
        main(["end", str(tmp_path), since, "1", "2"])
        said.append(capsys.readouterr().out.strip())
    assert said == ["restart", "restart", "failed"]
    write_events(tmp_path, "resumed", "finished")
    main(["begin", str(tmp_path)])
    assert capsys.readouterr().out.strip() == "done"
