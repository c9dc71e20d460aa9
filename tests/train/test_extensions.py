"""A dead build can't hang a start, and a living one is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from train.extensions import remove_stale_locks
print([str(path) for path in remove_stale_locks(Path(sys.argv[1]))], flush=True)
sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that uses the folder until its standard input is closed, and wait until it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.removed = process.stdout.readline()  # type: ignore[attr-defined]
    return process


def test_the_lock_of_a_killed_build_is_removed(tmp_path):
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    process = hold(tmp_path)
    process.communicate()
    assert str(lock) in process.removed
    assert not lock.exists()


def test_the_lock_of_a_build_stays_while_a_process_lives_that_may_be_building(tmp_path):
    first = hold(tmp_path)
    lock = tmp_path / "lock"
    lock.touch()
    second = hold(tmp_path)
    assert lock.exists()
    second.communicate()
    first.kill()
    first.wait()
    third = hold(tmp_path)
    third.communicate()
    assert not lock.exists()
