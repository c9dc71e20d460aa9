"""A run folder is held by one job: by the system's lock on a machine, by a lease that is renewed between machines."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from commands import kill_all, python, start_command, wait_until

from data_pipeline.foundation.errors import Failure, UserError
from train import run_lock
from train.run_lock import LOCK, hold_run

HOLD = "import sys, time; from pathlib import Path; from train.run_lock import hold_run\n"
HOLD += "with hold_run(Path(sys.argv[1])): "


@pytest.fixture
def impatient(monkeypatch):
    """Let leases go stale within the time of a test."""
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(run_lock, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)


def write_lease(folder, **changes):
    folder.mkdir(exist_ok=True)
    lease = {"host": "elsewhere", "pid": 4242, "boot": "b", "born": 1.0, "token": "t"} | changes
    (folder / LOCK).write_text(json.dumps(lease))


def test_a_second_job_is_refused_by_name_and_a_killed_ones_lock_is_free_at_once(tmp_path):
    folder = tmp_path / "run"
    holder = start_command(python("-c", HOLD + "time.sleep(600)", str(folder)), tmp_path)
    try:
        wait_until(lambda: (folder / LOCK).exists() and (folder / LOCK).stat().st_size > 0, holder)
        with pytest.raises(UserError) as refused, hold_run(folder):
            pass
        said = str(refused.value)
        assert str(folder) in said and f"process {holder.pid} on {os.uname().nodename}" in said
        assert f"kill {holder.pid}" in said and "another run.name" in said
    finally:
        kill_all(holder)
    with hold_run(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert (folder / LOCK).read_bytes() == b"", "a run that has ended is nobody's"


def test_a_lease_of_another_host_that_is_not_renewed_is_taken_over(tmp_path, impatient, capsys):
    folder = tmp_path / "run"
    write_lease(folder)
    began = time.monotonic()
    with hold_run(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert time.monotonic() - began > 0.5
    assert "process 4242 on elsewhere" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_lease_of_another_host_that_is_renewed_is_respected(tmp_path, impatient):
    folder = tmp_path / "run"
    write_lease(folder)
    alive = threading.Timer(0.3, lambda: os.utime(folder / LOCK))
    alive.start()
    with pytest.raises(UserError, match="process 4242 on elsewhere trains there"), hold_run(folder):
        pass
    alive.join()


def test_a_lease_from_before_this_machine_was_started_again_goes_stale_too(tmp_path, impatient):
    write_lease(tmp_path / "run", host=os.uname().nodename, boot="of another day")
    with hold_run(tmp_path / "run"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "elsewhere"}', b"\xff" * 40])
def test_a_lock_file_that_says_nothing_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with hold_run(tmp_path):
        pass


def test_without_locks_the_process_itself_is_looked_for(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(run_lock.NO_LOCKS[0], "not here")

    monkeypatch.setattr(run_lock.fcntl, "flock", no_locks)
    mine = {"host": os.uname().nodename, "boot": run_lock.this_machine()}
    born = run_lock._birth(os.getppid())
    write_lease(tmp_path, **mine, pid=os.getppid(), born=born)
    with pytest.raises(UserError, match=f"process {os.getppid()}"), hold_run(tmp_path):
        pass
    write_lease(tmp_path, **mine, pid=os.getppid(), born=born - 100)  # an earlier process of that number
    with hold_run(tmp_path):
        pass


def test_a_process_whose_lease_was_taken_over_ends(tmp_path):
    code = "import train.run_lock as lock; lock.BEAT_SECONDS = 0.1\n" + HOLD + "time.sleep(600)"
    holder = start_command(python("-c", code, str(tmp_path / "run")), tmp_path)
    try:
        wait_until(lambda: (tmp_path / "run" / LOCK).exists() and (tmp_path / "run" / LOCK).stat().st_size > 0, holder)
        write_lease(tmp_path / "run")
        _, error = holder.communicate(timeout=30)
    finally:
        kill_all(holder)
    assert holder.returncode == run_lock.TAKEN_OVER
    assert "was taken over by process 4242 on elsewhere" in error and "Traceback" not in error


def test_a_folder_that_can_not_be_made_is_a_failure_by_name(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Failure, match="file/run can't be written"), hold_run(tmp_path / "file" / "run"):
        pass
