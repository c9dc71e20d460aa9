"""What tasks tell by files, also when they are killed while they do."""

from __future__ import annotations

from data_pipeline.preparation.slurm.outcomes import Outcomes


def outcomes_in(folder) -> Outcomes:
    outcomes = Outcomes(folder)
    outcomes.expect(3)
    return outcomes


def test_items_of_all_tasks_and_restarts_are_counted_once(tmp_path):
    outcomes = outcomes_in(tmp_path)
    for rank, restart, item in ((0, 0, 4), (0, 1, 4), (0, 1, 10), (1, 0, 5)):
        outcomes.writer(rank, restart).finish(item)
    assert outcomes.finished() == {4, 5, 10}


def test_a_line_that_is_cut_off_counts_for_nothing(tmp_path):
    outcomes = outcomes_in(tmp_path)
    outcomes.writer(0, 0).finish(7)
    with open(tmp_path / "outcomes" / "0-0", "a") as file:
        file.write("12")
    assert outcomes.finished() == {7}


def test_errors_are_told_in_the_order_of_items(tmp_path):
    outcomes = outcomes_in(tmp_path)
    outcomes.writer(0, 0).fail(9, "ValueError", "nine")
    outcomes.writer(1, 0).fail(2, "UserError", "two")
    outcomes.writer(2, 1).fail(5, "Failure", "five\nlines")
    errors = outcomes.errors()
    assert [str(error) for error in errors] == ["two", "five\nlines", "ValueError: nine"]
    assert [error.is_mistake for error in errors] == [True, False, False]
    assert [error.rank for error in errors] == [1, 2, 0]


def test_a_task_gets_nowhere_when_three_starts_have_finished_nothing(tmp_path):
    outcomes = outcomes_in(tmp_path)
    assert [outcomes.writer(0, restart).got_nowhere(3) for restart in range(5)] == [False, False, False, True, True]
    outcomes.writer(0, 2).finish(1)
    assert [outcomes.writer(0, restart).got_nowhere(3) for restart in range(3, 7)] == [False, False, False, True]
