"""A training that hangs or loses a rank ends within its time, says why, and goes on to the same result."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import free_port, kill_all, python, read_rows, run_command, start_command, wait_until
from hosts import Hosts
from small_runs import assert_same_result, events, rows_done, train_command
from soak import long, note

from data_pipeline.foundation.errors import EXIT_HUNG

HANG = ("cluster.hang_seconds=8", "checkpoint.every=2")


def start_ranks(dataset: Path, folder: Path, *more: str, on: Hosts | None = None) -> list[subprocess.Popen[str]]:
    """Start two ranks without a launcher, so that nobody but they can notice anything; `on` a host each."""
    command, address = train_command(dataset, *HANG, *more), "127.0.0.1"
    commands, network = [command, command], {}
    if on:
        address, network = next(iter(on.addresses.values())), {"GLOO_SOCKET_IFNAME": "eth0"}
        commands = [on.command(host, command) for host in on.addresses]
    network |= {"WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(free_port())}
    return [
        start_command(commands[rank], folder, RANK=str(rank), LOCAL_RANK="0" if on else str(rank), **network)
        for rank in (0, 1)
    ]


def only_event(run: Path, *kinds: str) -> dict[str, Any]:
    (event,) = [row for row in read_rows(run / "events.jsonl") if row["kind"] in kinds]
    return event


def note_trouble(trouble: str, seconds: float, told: str, done: str) -> None:
    note("Troubles", trouble=trouble, seconds_to_detection=f"{seconds:.1f}", told=told, done=done)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGSTOP, "hung"), pytest.param(signal.SIGKILL, "rank_lost", marks=long)]
)
def test_a_rank_that_stops_or_dies_ends_the_other_and_is_named(small_dataset, tmp_path, number, kind):
    run = tmp_path / "runs" / "run"
    ranks = start_ranks(small_dataset, tmp_path, "steps=4000")
    try:
        wait_until(lambda: rows_done(run) >= 3, ranks[0])
        ranks[0].send_signal(number)
        began = time.time()
        assert ranks[1].wait(timeout=60) in (1, EXIT_HUNG)
    finally:
        for process in ranks:
            kill_all(process)
    event = only_event(run, kind)
    assert (event["rank"], event["told_by"]) == (0, 1)
    assert "Traceback" not in ranks[1].stderr.read()
    done = f"stacks written, the other rank ended with {ranks[1].returncode}"
    note_trouble(f"{number.name} of a rank; hang_seconds=8", event["time"] - began, event["reason"], done)


@long
def test_a_network_cut_in_mid_run_ends_both_hosts_and_it_goes_on_to_the_same_result(
    undisturbed, small_dataset, tmp_path, two_hosts
):
    run = tmp_path / "runs" / "run"
    _, second = two_hosts.addresses
    ranks = start_ranks(small_dataset, tmp_path, on=two_hosts)
    try:
        wait_until(lambda: rows_done(run) >= 5, ranks[0])
        two_hosts.cut(second)
        began = time.time()
        assert [process.wait(timeout=90) for process in ranks] == [EXIT_HUNG, EXIT_HUNG]
        ended = time.time()
        event = only_event(run, "hung", "rank_lost")
        assert (event["kind"], event["rank"]) == ("hung", None)
        assert "the network between them may be cut" in event["reason"]
        for rank in (0, 1):
            assert "all_reduce" in (run / "hangs" / f"rank-{rank:05d}.txt").read_text()
        two_hosts.mend(second)
        ranks = start_ranks(small_dataset, tmp_path, on=two_hosts)
        assert [process.wait(timeout=120) for process in ranks] == [0, 0], ranks[0].stderr.read()
    finally:
        for process in ranks:
            kill_all(process)
    assert [kind for kind in events(run) if kind in ("hung", "resumed")] == ["hung", "resumed"]
    assert_same_result(run, undisturbed(2))
    done = f"stacks of both ranks written, both ended with 69 after {ended - began:.1f} s; healed and started again: "
    done += "every loss and final weight bitwise the same"
    note_trouble("network cut between two hosts; hang_seconds=8", event["time"] - began, event["reason"], done)


@long
def test_a_rank_that_is_slowed_down_from_outside_is_named(small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"

    def named() -> list[dict[str, Any]]:
        return [row for row in read_rows(run / "events.jsonl") if row["kind"] == "straggler" and row["rank"] == 1]

    ranks = start_ranks(small_dataset, tmp_path, "steps=4000", "checkpoint.every=0", "validation.every=0")
    try:
        wait_until(lambda: rows_done(run) >= 40, ranks[0])
        assert named() == []
        began = time.time()
        while not named():
            assert time.time() < began + 120 and ranks[0].poll() is None
            ranks[1].send_signal(signal.SIGSTOP)
            time.sleep(0.03)
            ranks[1].send_signal(signal.SIGCONT)
            time.sleep(0.01)
    finally:
        for process in ranks:
            kill_all(process)
    event = named()[0]
    told = f"rank 1 takes {event['ratio']} times as long as the others"
    note_trouble("a rank stands still for 30 of 40 ms", event["time"] - began, told, "named; training goes on")


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
        began = time.time()
        _, error = process.communicate(timeout=240)
    finally:
        kill_all(process)
    assert process.returncode == 0, error
    assert [kind for kind in events(run) if kind in ("hung", "resumed")] == ["hung", "resumed"]
    assert_same_result(run, undisturbed(2))
    event = only_event(run, "hung")
    done = "torchrun started it again: every loss and final weight bitwise the same"
    note_trouble("SIGSTOP of a rank under torchrun; hang_seconds=8", event["time"] - began, event["reason"], done)


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
