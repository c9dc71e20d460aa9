"""Two processes under each launcher are one run."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from commands import REPOSITORY, free_port, kill_all, read_rows, run_command, start_command, wait_until
from small_runs import STEPS, assert_same_result, events, learnt, rows_done, train_command
from soak import long

from data_pipeline.foundation.errors import EXIT_STOPPED_EARLY

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def script(name: str, *settings: str) -> list[str]:
    """Return the command that runs one of the scripts that people copy."""
    return ["bash", str(REPOSITORY / "launch" / name), *settings]


def test_torchrun_trains_one_run_with_the_losses_of_one_process(undisturbed):
    run = undisturbed(2)
    assert events(run)[0] == "started" and events(run)[-1] == "finished"
    assert read_rows(run / "events.jsonl")[0]["ranks"] == 2
    losses, alone = ([row["loss"] for row in learnt(undisturbed(ranks))] for ranks in (2, 1))
    assert len(losses) == STEPS
    assert losses == pytest.approx(alone, abs=1e-4)
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_the_script_of_the_deepspeed_launcher_trains_the_same_on_a_cpu(undisturbed, small_dataset, tmp_path):
    command = script("deepspeed.sh", *train_command(small_dataset)[4:])
    finished = run_command(command, tmp_path, PROCESSES="2", PORT=str(free_port()), PATH=PATH)
    assert finished.code == 0, finished.err
    assert_same_result(tmp_path / "runs" / "run", undisturbed(2))


def test_a_signal_to_one_worker_stops_all_with_a_checkpoint(undisturbed, small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"
    command = train_command(small_dataset, "checkpoint.every=0", ranks=2)
    process = start_command(command, tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 3, process)
        workers = {
            child.environ().get("RANK"): child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "RANK" in child.environ()
        }
        workers["1"].send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        kill_all(process)
    last = read_rows(run / "events.jsonl")[-1]
    assert last["kind"] == "preempted"
    assert (run / "checkpoints" / f"step-{last['step']:08d}").is_dir()
    goes_on = script("torchrun.sh", *train_command(small_dataset)[4:])
    finished = run_command(goes_on, tmp_path, PROCESSES="2", PATH=PATH)
    assert finished.code == 0, finished.err
    assert_same_result(run, undisturbed(2))


@long
def test_cluster_torchrun_starts_again_what_hung_and_ends_in_the_same_bits(undisturbed, small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"
    command = train_command(small_dataset, "cluster=torchrun", "cluster.processes=2", "cluster.hang_seconds=8")
    process = start_command(command, tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 5, process)
        second = json.loads((run / "heartbeats" / "rank-00001.json").read_bytes())["pid"]
        os.kill(second, signal.SIGSTOP)
        _, error = process.communicate(timeout=240)
    finally:
        kill_all(process)
    assert process.returncode == 0, error
    assert "starting again" in error and [kind for kind in events(run) if kind == "resumed"] == ["resumed"]
    assert_same_result(run, undisturbed(2))


@long
@pytest.mark.parametrize("cluster", ["torchrun", "deepspeed"])
def test_a_signal_to_the_command_stops_all_ranks_with_a_checkpoint(cluster, undisturbed, small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"
    port = [f"cluster.port={free_port()}"] if cluster == "deepspeed" else []
    command = train_command(small_dataset, f"cluster={cluster}", "cluster.processes=2", *port)
    process = start_command(command, tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 3, process)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=90)
    finally:
        kill_all(process)
    assert process.returncode == EXIT_STOPPED_EARLY, error
    assert events(run)[-1] == "preempted"
    assert run_command(command, tmp_path).code == 0
    assert_same_result(run, undisturbed(2))
