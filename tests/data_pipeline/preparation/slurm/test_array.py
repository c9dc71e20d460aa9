"""What one task of an array does with its share."""

from __future__ import annotations

import pytest
from slurm_tasks import Square

from data_pipeline.preparation.slurm.array import STARTS, DoShare, array_options, do_share
from data_pipeline.preparation.slurm.outcomes import Outcomes
from data_pipeline.preparation.slurm.settings import SlurmConfig

ITEMS = [(number, number + 100) for number in range(7)]


@pytest.fixture
def outcomes(tmp_path) -> Outcomes:
    outcomes = Outcomes(tmp_path / "array")
    outcomes.expect(3)
    return outcomes


def test_the_ranks_of_an_array_do_all_items_and_each_item_once(tmp_path, outcomes):
    task = Square(tmp_path)
    for rank in range(3):
        before = outcomes.finished()
        DoShare(task, ITEMS, outcomes, 1).run(None, rank, 3)
        assert sorted(outcomes.finished() - before) == list(range(rank, 7, 3))
    assert all(len(task.tries(item)) == 1 and task.result(item).exists() for _, item in ITEMS)


def test_an_error_keeps_nothing_else_from_being_done(tmp_path, outcomes):
    task = Square(tmp_path, bad=((101, "value"), (103, "failure")))
    assert do_share(task, ITEMS, outcomes.writer(0, 0), 1) == 1
    assert outcomes.finished() == {0, 2, 4, 5, 6}
    assert [(error.item, error.kind) for error in outcomes.errors()] == [(1, "ValueError"), (3, "Failure")]


def test_a_mistake_of_the_users_ends_the_share(tmp_path, outcomes):
    task = Square(tmp_path, bad=((101, "value"), (103, "user")))
    with pytest.raises(SystemExit) as end:
        DoShare(task, ITEMS, outcomes, 1).run(None)
    assert end.value.code == 2
    assert outcomes.finished() == {0, 2}


def test_a_mistake_is_told_even_where_another_error_came_first(tmp_path, outcomes):
    task = Square(tmp_path, bad=((101, "value"), (103, "user")))
    do_share(task, ITEMS, outcomes.writer(0, 0), 1)
    assert any(error.is_mistake for error in outcomes.errors())


def test_a_process_that_dies_is_told(tmp_path, outcomes):
    task = Square(tmp_path, bad=((102, "killed"),))
    assert do_share(task, ITEMS[:4], outcomes.writer(0, 0), 2) == 1
    assert "a process died" in str(outcomes.errors()[0]) and "engine.memory" in str(outcomes.errors()[0])


def test_a_task_that_is_started_in_vain_again_and_again_gives_up(tmp_path, outcomes):
    task = Square(tmp_path)
    assert do_share(task, ITEMS, outcomes.writer(0, STARTS), 1) == 1
    assert outcomes.finished() == set() and "got nothing done" in str(outcomes.errors()[0])


def test_an_array_has_no_more_tasks_than_items(tmp_path):
    assert array_options("name", tmp_path, 3, SlurmConfig(tasks=16))["array"] == "0-2"
    assert array_options("name", tmp_path, 100, SlurmConfig(tasks=16, at_once=4))["array"] == "0-15%4"
