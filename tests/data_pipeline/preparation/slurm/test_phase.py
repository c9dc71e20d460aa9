"""How far a phase is, and why it isn't further."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.foundation.errors import UserError
from data_pipeline.preparation.slurm.phase import Array, Phase
from data_pipeline.preparation.slurm.queue import ArrayTask


def array_in(folder: Path) -> Array:
    array = Array("name", folder)
    array.outcomes.expect(3)
    return array


def test_what_is_left_is_left_by_all_arrays_together(tmp_path):
    phase = Phase("squaring", print, range(5), [10, 20, 30, 40, 50], tmp_path)
    assert phase.arrays() == 0 and phase.left() == [0, 1, 2, 3, 4] and phase.done(phase.left()) == 0
    for number, items in ((1, (0, 3)), (2, (1,)), (10, (1, 4))):
        array_in(tmp_path / str(number))
        for item in items:
            phase.array(number, "x").outcomes.writer(0, 0).finish(item)
    assert phase.arrays() == 10 and phase.left() == [2] and phase.done([2]) == 120


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("TIMEOUT", "; raise engine.time"),
        ("OUT_OF_MEMORY", "; raise engine.memory"),
        ("NODE_FAIL", ""),
    ],
)
def test_how_slurm_ended_a_task_is_told_with_its_last_words_and_advice(tmp_path, state, advice):
    array = array_in(tmp_path)
    log = tmp_path / "17_1.log"
    log.write_text("beginning\nslurmstepd: error: *** JOB 17 ON node1 ***\n\n")
    tasks = [ArrayTask("17", 0, "COMPLETED", "None"), ArrayTask("17", 1, state, "None")]
    said = f"task 1 of job 17 ended with {state}: slurmstepd: error: *** JOB 17 ON node1 ***{advice} (log: {log})"
    assert str(array.trouble(tasks)) == said


def test_what_a_task_says_itself_counts_more(tmp_path):
    array = array_in(tmp_path)
    array.outcomes.writer(1, 0).fail(4, "Failure", "the disk is full")
    tasks = [ArrayTask("17", 0, "CANCELLED", "None"), ArrayTask("17", 1, "FAILED", "NonZeroExitCode")]
    (tmp_path / "17_1.log").touch()
    assert str(array.trouble(tasks)) == f"the disk is full (log: {tmp_path / '17_1.log'})"


def test_a_task_that_would_wait_for_ever_has_ended(tmp_path):
    task = ArrayTask("17", 2, "PENDING", "launch failed requeued held")
    assert task.has_ended
    assert "task 2 of job 17 ended with launch failed requeued held" in str(array_in(tmp_path).trouble([task]))
    assert not ArrayTask("17", 2, "PENDING", "Resources").has_ended


def test_an_array_that_slurm_has_forgotten_is_told_by_its_name(tmp_path):
    assert str(tmp_path) in str(array_in(tmp_path).trouble([]))


def test_a_mistake_of_any_task_is_raised(tmp_path):
    array = array_in(tmp_path)
    array.raise_mistake()
    array.outcomes.writer(0, 0).fail(1, "ValueError", "one")
    array.raise_mistake()
    array.outcomes.writer(1, 0).fail(9, "UserError", "nine")
    with pytest.raises(UserError, match="nine"):
        array.raise_mistake()
