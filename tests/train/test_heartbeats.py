"""By its file one sees of a rank whether it lives, where it is, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY

from train.heartbeats import OwnHeartbeat, has_died, heartbeat_path, read_heartbeat

ALIVE = """
import sys
from pathlib import Path
from train.heartbeats import OwnHeartbeat
own = OwnHeartbeat(Path(sys.argv[1]), 3)
own.write(57, 2, "learning", 1.25)
print("here", flush=True)
sys.stdin.readline()
own.close()
print("left", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path):
    """A process that is rank 3."""
    process = subprocess.Popen(
        [sys.executable, "-c", ALIVE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout.readline() == "here\n"
    yield process
    process.kill()
    process.communicate()


def test_a_living_rank_says_where_it_is(other, tmp_path):
    beat = read_heartbeat(tmp_path, 3)
    assert (beat.rank, beat.pid, beat.step, beat.place, beat.phase) == (3, other.pid, 57, 2, "learning")
    assert not has_died(tmp_path, 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_death_is_seen_at_once_even_before_the_parent_has_buried_it(other, tmp_path, number):
    other.send_signal(number)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert has_died(tmp_path, 3)
    assert read_heartbeat(tmp_path, 3).step == 57


def test_a_stopped_process_is_not_dead(other, tmp_path):
    other.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, other.pid, os.WSTOPPED)
    assert not has_died(tmp_path, 3)


def test_a_rank_that_left_in_good_order_is_not_missed(other, tmp_path):
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "left\n"
    assert read_heartbeat(tmp_path, 3) is None
    assert not has_died(tmp_path, 3)


def test_what_can_not_be_read_is_no_sign_of_anything(tmp_path):
    heartbeat_path(tmp_path, 3).write_text('{"rank": 3, "ho')
    assert read_heartbeat(tmp_path, 3) is None
    assert not has_died(tmp_path, 3)


def test_of_another_machine_a_lock_tells_nothing(tmp_path: Path):
    path = heartbeat_path(tmp_path, 0)
    own = OwnHeartbeat(tmp_path, 0)
    own.write(1, 0, "learning", 0.0)
    elsewhere = path.read_bytes().replace(read_heartbeat(tmp_path, 0).machine.encode(), b"elsewhere")
    own.close()
    path.write_bytes(elsewhere)
    assert not has_died(tmp_path, 0)
