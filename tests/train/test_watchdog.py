"""A run that hangs or has lost a rank ends by itself, and says who and where."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import clean_environment, free_port, read_rows

from data_pipeline.foundation.errors import EXIT_HUNG

SCRIPT = str(Path(__file__).with_name("watched_ranks.py"))
HANG_SECONDS = 3


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ranks without a launcher: nobody else would notice or end anything."""
    started: list[subprocess.Popen[str]] = []

    def start_rank(*arguments: str, before: list[str] | None = None, **environment: str) -> subprocess.Popen[str]:
        command = [*(before or []), sys.executable, SCRIPT, str(tmp_path), str(HANG_SECONDS), *arguments]
        process = subprocess.Popen(
            command, env=clean_environment(**environment), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start_rank
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start_two(start: Start, *second: str) -> list[subprocess.Popen[str]]:
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        start(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **address)
        for rank, arguments in enumerate([(), second])
    ]


def wait_for_step(folder: Path, step: int, ranks: int = 2) -> None:
    deadline = time.monotonic() + 90
    done = [folder / f"step-of-rank-{rank}" for rank in range(ranks)]
    while not all(path.exists() and int(path.read_text() or 0) >= step for path in done):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_one_process_that_hangs_writes_down_where_and_ends_with_69(start, tmp_path):
    process = start("sleep", "5")
    assert process.wait(timeout=90) == EXIT_HUNG
    stacks = (tmp_path / "hangs" / "rank-00000.txt").read_text()
    assert "watched_ranks.py" in stacks and "in main" in stacks
    assert "no step has ended for" in process.stderr.read()
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"], event["rank"]) == ("hung", 5, 0)
    assert "(reading)" in event["reason"]


def test_c_code_that_keeps_the_interpreter_to_itself_is_ended_too(start, tmp_path):
    process = start("spin", "60")
    assert process.wait(timeout=90) == 1
    stacks = (tmp_path / "hangs" / "rank-00000.txt").read_text()
    assert "Timeout" in stacks and "in spin" in stacks


def test_a_stopped_rank_is_found_by_the_others(start, tmp_path):
    first, second = start_two(start)
    wait_for_step(tmp_path, 80)
    assert not (tmp_path / "events.jsonl").exists(), "ranks that live and move are left alone"
    second.send_signal(signal.SIGSTOP)
    assert first.wait(timeout=60) == EXIT_HUNG
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (event["kind"], event["rank"], event["told_by"]) == ("hung", 1, 0)
    assert "rank 1" in event["reason"] and "no sign of life" in event["reason"]
    assert "all_reduce" in (tmp_path / "hangs" / "rank-00000.txt").read_text()
    # Woken up, it doesn't go on alone.
    second.send_signal(signal.SIGCONT)
    assert second.wait(timeout=60) in (1, EXIT_HUNG)


@pytest.mark.parametrize("dying", [0, 1])
def test_a_killed_rank_ends_the_other_within_seconds(start, tmp_path, dying):
    ranks = start_two(start)
    wait_for_step(tmp_path, 10)
    ranks[dying].kill()
    survivor = ranks[1 - dying]
    assert survivor.wait(timeout=20) in (1, EXIT_HUNG)
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (event["kind"], event["rank"], event["told_by"]) == ("rank_lost", dying, 1 - dying)
    assert f"rank {dying} (" in survivor.stderr.read()


def test_a_rank_that_fails_alone_tells_the_other_why(start, tmp_path):
    first, second = start_two(start, "fail", "30")
    assert first.wait(timeout=60) in (1, EXIT_HUNG)
    assert "ValueError: of its own making" in second.stderr.read()
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (event["kind"], event["rank"]) == ("rank_lost", 1)
    assert "failing: of its own making" in event["reason"]


def test_a_network_that_is_cut_in_two_ends_both_sides(start, tmp_path, two_hosts):
    names = list(two_hosts.addresses)
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": two_hosts.addresses[names[0]], "MASTER_PORT": "29511"}
    address |= {"LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "eth0"}
    ranks = [start(before=two_hosts.command(name, []), RANK=str(rank), **address) for rank, name in enumerate(names)]
    wait_for_step(tmp_path, 10)
    two_hosts.cut(names[1])
    assert [process.wait(timeout=60) for process in ranks] == [EXIT_HUNG, EXIT_HUNG]
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert event["kind"] == "hung" and "the network between them may be cut" in event["reason"]
    assert sorted(path.name for path in (tmp_path / "hangs").iterdir()) == ["rank-00000.txt", "rank-00001.txt"]
