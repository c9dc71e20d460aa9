"""Killed at any instant and started again, a run ends bit for bit where it would have ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import kill_all, run_command, start_command, wait_until
from small_runs import assert_same_result, events, rows_done, train_command


def kill_after(step: int, command: list[str], folder: Path) -> None:
    """Start a command and kill all its processes as soon as the run has recorded a step."""
    process = start_command(command, folder)
    try:
        wait_until(lambda: rows_done(folder / "runs" / "run") >= step, process)
    finally:
        kill_all(process)


@pytest.mark.parametrize(("ranks", "zero"), [(1, "0"), (2, "0")])
def test_killed_three_times_every_loss_and_every_bit_is_the_same(undisturbed, small_dataset, tmp_path, ranks, zero):
    command = train_command(small_dataset, f"zero={zero}", ranks=ranks)
    # Before the first checkpoint may be whole, in the middle of much saving, and after a resume.
    for step in (1, 17, 31):
        kill_after(step, command, tmp_path)
    assert run_command(command, tmp_path).code == 0
    run = tmp_path / "runs" / "run"
    assert_same_result(run, undisturbed(ranks))
    assert events(run).count("resumed") >= 2
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_debris_of_a_killed_save_is_no_checkpoint_and_is_cleared(undisturbed, small_dataset, tmp_path):
    assert run_command(train_command(small_dataset, "stop_after=10"), tmp_path).code == 75
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    half = checkpoints / "step-00000012.tmp"
    half.mkdir()
    (half / "state-00000-of-00001.safetensors").write_bytes(b"half")
    assert run_command(train_command(small_dataset), tmp_path).code == 0
    assert not list(checkpoints.glob("*.tmp"))
    assert_same_result(checkpoints.parent, undisturbed(1))
