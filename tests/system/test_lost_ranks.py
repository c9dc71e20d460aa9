"""A training that hangs or loses a rank ends within its time, says why, and goes on to the same result."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import psutil
import pytest
from commands import kill_all, python, read_rows, run_command, start_command, wait_until
from small_runs import assert_same_result, events, rows_done, train_command
from soak import long

from data_pipeline.foundation.errors import EXIT_HUNG

HANG = ("cluster.hang_seconds=8", "checkpoint.every=2")


def start_ranks(small_dataset, folder, *more: str) -> list[subprocess.Popen[str]]:
    """Start two ranks without a launcher, so that nobody but they can notice anything."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = train_command(small_dataset, *HANG, *more)
    return [start_command(command, folder, RANK=str(rank), LOCAL_RANK=str(rank), **address) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGSTOP, "hung"), pytest.param(signal.SIGKILL, "rank_lost", marks=long)]
)
def test_a_rank_that_stops_or_dies_ends_the_other_and_is_named(small_dataset, tmp_path, number, kind):
    run = tmp_path / "runs" / "run"
    ranks = start_ranks(small_dataset, tmp_path, "steps=4000")
    try:
        wait_until(lambda: rows_done(run) >= 3, ranks[0])
        ranks[0].send_signal(number)
        assert ranks[1].wait(timeout=60) in (1, EXIT_HUNG)
    finally:
        for process in ranks:
            kill_all(process)
    (event,) = [row for row in read_rows(run / "events.jsonl") if row["kind"] == kind]
    assert (event["rank"], event["told_by"]) == (0, 1)
    assert "Traceback" not in ranks[1].stderr.read()


@long
def test_a_launcher_restarts_a_run_that_hung_and_it_ends_as_if_nothing_had_been(undisturbed, small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"
    command = train_command(small_dataset, *HANG, ranks=2)
    command.insert(command.index("--standalone"), "--max-restarts=2")
    process = start_command(command, tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 5, process)
        (second,) = (
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.environ().get("RANK") == "1"
        )
        os.kill(second.pid, signal.SIGSTOP)
        _, error = process.communicate(timeout=240)
    finally:
        kill_all(process)
    assert process.returncode == 0, error
    assert [kind for kind in events(run) if kind in ("hung", "resumed")] == ["hung", "resumed"]
    assert_same_result(run, undisturbed(2))


@long
def test_a_run_of_one_process_that_hangs_is_started_again_to_the_same_result(undisturbed, small_dataset, tmp_path):
    script = (
        "import itertools, sys, time, train.validation as validation, train.__main__ as train;"
        "measure, calls = validation.Validation.measure, itertools.count();"
        "hang = lambda *told: measure(*told) if next(calls) < 1 else time.sleep(600);"
        "validation.Validation.measure = hang; sys.exit(train.VERB.main(sys.argv[1:]))"
    )
    arguments = train_command(small_dataset, "cluster.hang_seconds=5")[4:]
    hung = run_command(python("-c", script, *arguments), tmp_path)
    assert hung.code == EXIT_HUNG
    run = tmp_path / "runs" / "run"
    assert "trainer.py" in (run / "hangs" / "rank-00000.txt").read_text()
    assert "(validating)" in next(row for row in read_rows(run / "events.jsonl") if row["kind"] == "hung")["reason"]
    assert run_command(train_command(small_dataset), tmp_path).code == 0
    assert_same_result(run, undisturbed(1))
