"""What stays is what the rules say, and whatever they say, a good checkpoint is among it."""

from __future__ import annotations

import pytest
from checkpoints import flip, publish, steps_in

from train.checkpoint.retention import Retention, remove_old


def saved(folder, rules, losses):
    """Publish steps one after another, as a run does, and let go after each."""
    for step, loss in losses.items():
        remove_old(folder, rules, publish(folder, step, loss))
    return steps_in(folder)


LOSSES = {1: 5.0, 2: 3.0, 3: None, 4: 4.0, 5: 4.5, 6: None, 7: 4.2}


@pytest.mark.parametrize(
    ("rules", "stay"),
    [
        (Retention(2), [6, 7]),
        (Retention(0), [1, 2, 3, 4, 5, 6, 7]),
        (Retention(1, every=3), [3, 6, 7]),
        (Retention(1, best=1), [2, 7]),
        (Retention(1, best=2), [2, 4, 7]),
        (Retention(2, every=5, best=1), [2, 5, 6, 7]),
        (Retention(9), [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_newest_every_nth_and_the_best_stay(tmp_path, rules, stay):
    assert saved(tmp_path, rules, LOSSES) == stay


def test_the_earlier_of_equals_is_the_best_and_what_is_no_number_is_none(tmp_path):
    assert saved(tmp_path, Retention(1, best=1), {1: float("nan"), 2: 3.0, 3: 3.0, 4: 5.0}) == [2, 4]


def test_the_newest_that_verifies_stays_where_the_newer_ones_are_damaged(tmp_path):
    for step in (1, 2, 3, 4):
        newest = publish(tmp_path, step)
    flip(tmp_path / "step-00000003" / "trainer.json", 99)
    (newest / "model.json").unlink()
    remove_old(tmp_path, Retention(1), newest)
    assert steps_in(tmp_path) == [2, 4]


def test_the_last_but_one_goes_only_when_the_last_is_read_back_whole(tmp_path):
    publish(tmp_path, 1)
    newest = publish(tmp_path, 2)
    flip(newest / "state-00000-of-00002.safetensors", 999)
    assert remove_old(tmp_path, Retention(1), newest) == [] and steps_in(tmp_path) == [1, 2]
    remove_old(tmp_path, Retention(1), publish(tmp_path, 3))
    assert steps_in(tmp_path) == [3]


def test_nothing_goes_where_none_is_good(tmp_path):
    for step in (1, 2, 3):
        newest = publish(tmp_path, step)
        (newest / "model.json").unlink()
    assert remove_old(tmp_path, Retention(1), newest) == [] and steps_in(tmp_path) == [1, 2, 3]


def test_a_later_one_that_the_run_has_rejected_pushes_nothing_out(tmp_path):
    for step in (10, 20, 30):
        publish(tmp_path, step)
    flip(tmp_path / "step-00000030" / "model.json", 99)
    remove_old(tmp_path, Retention(1), publish(tmp_path, 25))
    assert steps_in(tmp_path) == [25, 30]


def test_what_is_being_read_stays(tmp_path):
    read = publish(tmp_path, 1)
    remove_old(tmp_path, Retention(1), publish(tmp_path, 2), [read])
    assert steps_in(tmp_path) == [1, 2]
    remove_old(tmp_path, Retention(1), publish(tmp_path, 3))
    assert steps_in(tmp_path) == [3]
