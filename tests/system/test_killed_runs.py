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


# Before the first checkpoint can be whole, in the middle of much saving, and again after a resume.
@pytest.mark.parametrize(("ranks", "kills"), [(1, (1, 13, 25)), (2, (17,))])
def test_killed_and_started_again_every_loss_and_every_bit_is_the_same(
    undisturbed, small_dataset, tmp_path, ranks, kills
):
    command = train_command(small_dataset, ranks=ranks)
    for step in kills:
        kill_after(step, command, tmp_path)
    finished = run_command(command, tmp_path)
    assert finished.code == 0, finished.err
    run = tmp_path / "runs" / "run"
    assert_same_result(run, undisturbed(ranks))
    assert events(run).count("resumed") >= sum(step > 2 for step in kills)
    assert not list((run / "checkpoints").glob("*.tmp"))
