"""Two processes under each launcher are one run."""

from __future__ import annotations

import signal

import psutil
import pytest
from commands import free_port, kill_all, python, read_rows, run_command, start_command, wait_until
from small_runs import STEPS, assert_same_result, events, learnt, rows_done, train_command


def test_torchrun_trains_one_run_with_the_losses_of_one_process(undisturbed):
    run = undisturbed(2)
    assert events(run)[0] == "started" and events(run)[-1] == "finished"
    assert read_rows(run / "events.jsonl")[0]["ranks"] == 2
    losses, alone = ([row["loss"] for row in learnt(undisturbed(ranks))] for ranks in (2, 1))
    assert len(losses) == STEPS
    assert losses == pytest.approx(alone, abs=1e-4)
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_the_deepspeed_launcher_trains_the_same_on_a_cpu(undisturbed, small_dataset, tmp_path):
    launcher = python("-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--no_local_rank")
    arguments = train_command(small_dataset)[4:]
    command = [*launcher, "--master_port", str(free_port()), "--module", "train", *arguments]
    finished = run_command(command, tmp_path, DS_ACCELERATOR="cpu")
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
    assert run_command(train_command(small_dataset, ranks=2), tmp_path).code == 0
    assert_same_result(run, undisturbed(2))
