"""A disk that fills up or refuses under a run delays what is recorded; a checkpoint that it refuses ends it by name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from commands import Finished, kill_all, read_rows, start_command, wait_until
from small_runs import assert_one_line, events, rows_done, train_command
from soak import long, note

STEPS = 600
SETTINGS = (f"steps={STEPS}", "checkpoint.every=0", "validation.every=0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Callable[[Path, bool], None]]:
    """Let nobody write into a folder and its files, who has them open neither; or let them again."""

    def change(folder: Path, immutable: bool) -> None:
        subprocess.run(["chattr", "-R", "+i" if immutable else "-i", str(folder)], check=True, capture_output=True)

    try:
        change(tmp_path, True)
        change(tmp_path, False)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("`chattr +i` needs root and a file system that has it")
    yield change
    change(tmp_path, False)


def run_with(
    command: list[str], folder: Path, trouble: Callable[[], None], mended: Callable[[], None], mends: bool
) -> Finished:
    """Train; when five steps are recorded, trouble comes; it is mended, or not, after a second of work."""
    run = folder / "runs" / "run"
    process = start_command(command, folder)
    try:
        wait_until(lambda: rows_done(run) >= 5, process)
        trouble()
        if mends:
            worked = seconds_worked(process)
            wait_until(lambda: seconds_worked(process) > worked + 1, process)
            mended()
        out, error = process.communicate(timeout=120)
    finally:
        kill_all(process)
        mended()
    return Finished(process.returncode, out, error)


def judge(finished: Finished, run: Path, mends: bool, trouble: str, reason: str) -> None:
    """Where it was mended, all is recorded; where not, the last checkpoint is refused, and losses are counted."""
    (told,) = [line for line in finished.err.splitlines() if "can't record to" in line and "metrics" in line]
    assert "Training goes on" in told
    recorded = [row["step"] for row in read_rows(run / "metrics.jsonl")]
    done = "every row was recorded when there was room again, and the run ended well"
    if mends:
        assert finished.code == 0, finished.err
        assert recorded == list(range(1, STEPS + 1))
        assert events(run) == ["started", "checkpoint_saved", "finished"]
    else:
        line = assert_one_line(finished, 1)
        assert f"step-{STEPS:08d} could not be saved" in line and reason in line
        assert f"{STEPS - len(recorded):,} lines of" in finished.err and "are lost" in finished.err
        assert list((run / "checkpoints").glob("*")) == []
        done = f"the checkpoint was refused by name, {STEPS - len(recorded)} rows counted as lost, exit 1"
    note(
        "Troubles",
        trouble=f"{trouble}, {'for a while' if mends else 'to the end'}",
        seconds_to_detection="at the first write",
        told=told,
        done=done,
    )


def seconds_worked(process: subprocess.Popen[str]) -> float:
    return psutil.Process(process.pid).cpu_times().user


def fill(disk: Path) -> None:
    with open(disk / "ballast", "wb") as file:
        file.write(b"x" * shutil.disk_usage(disk).free)


@long
@pytest.mark.parametrize("mends", [True, False])
def test_a_disk_that_is_full_delays_the_record_and_refuses_the_checkpoint(small_dataset, small_disk, mends):
    def make_room() -> None:
        (small_disk / "ballast").unlink(missing_ok=True)

    command = train_command(small_dataset, *SETTINGS)
    finished = run_with(command, small_disk, lambda: fill(small_disk), make_room, mends)
    judge(finished, small_disk / "runs" / "run", mends, "the disk is full", "make room")


@long
@pytest.mark.parametrize("mends", [True, False])
def test_a_run_folder_that_turns_read_only_does_the_same(small_dataset, tmp_path, immutable, mends):
    run = tmp_path / "runs" / "run"
    command = train_command(small_dataset, *SETTINGS)
    finished = run_with(command, tmp_path, lambda: immutable(run, True), lambda: immutable(run, False), mends)
    judge(finished, run, mends, "the run's folder is read-only", "Operation not permitted")
