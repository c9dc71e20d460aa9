"""Killed at any instant and started again, a run ends bit for bit where it would have ended."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from commands import kill_all, run_command, start_command, wait_until
from small_runs import assert_same_result, events, learnt, rows_done, train_command
from soak import long


def kill_after(step: int, command: list[str], folder: Path, name: str = "run") -> None:
    """Start a command and kill all its processes as soon as the run has recorded a step."""
    process = start_command(command, folder)
    try:
        wait_until(lambda: rows_done(folder / "runs" / name) >= step, process)
    finally:
        kill_all(process)


# Mixed from two sources, one of them seen several times; longer sequences and larger batches on the way; or packed.
CHANGING = (
    "data.stages=[{tokens:3000,weights:{river:1,hill:1}},{epochs:{hill:0.1},sequence_length:48}]",
    "data.ramp={start:16,tokens:1500,rises:2}",
    "batch.ramp={start:4,tokens:2500,rises:2}",
)
PACKED = ("data.packing=best_fit", "data.weights={river:3,hill:1}", "data.sequence_length=64")


@pytest.mark.parametrize("settings", [CHANGING, pytest.param(PACKED, marks=long)], ids=["changing", "packed"])
def test_a_run_that_mixes_changes_or_packs_goes_on_exactly_where_it_was(mixed_dataset, tmp_path, settings):
    for name in ("undisturbed", "killed"):
        command = train_command(mixed_dataset, *settings, name=name)
        if name == "killed":
            for step in (7, 23):
                kill_after(step, command, tmp_path, name)
        finished = run_command(command, tmp_path)
        assert finished.code == 0, finished.err
    run, reference = tmp_path / "runs" / "killed", tmp_path / "runs" / "undisturbed"
    assert_same_result(run, reference)
    batches = {row["tokens"] - before["tokens"] for before, row in itertools.pairwise(learnt(run))}
    assert len(batches) > 3, "the batches are all alike"


def test_two_processes_read_the_same_steps_of_a_run_that_changes(mixed_dataset, tmp_path):
    losses = []
    for ranks in (1, 2):
        finished = run_command(train_command(mixed_dataset, *CHANGING, name=f"on-{ranks}", ranks=ranks), tmp_path)
        assert finished.code == 0, finished.err
        losses.append([row["loss"] for row in learnt(tmp_path / "runs" / f"on-{ranks}")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


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
