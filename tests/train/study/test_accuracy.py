"""Shares come with intervals, and votes go to the answer most often given."""

from __future__ import annotations

import pytest

from train.chain_of_thought.think import vote
from train.study.accuracy import accuracy_of


def test_an_interval_is_about_two_standard_errors_wide():
    found = accuracy_of([True] * 300 + [False] * 200)
    error = (0.6 * 0.4 / 500) ** 0.5
    assert (found.share, found.problems) == (0.6, 500)
    assert found.low == pytest.approx(0.6 - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(0.6 + 1.96 * error, abs=0.006)


def test_what_is_always_solved_has_no_doubt_left():
    assert accuracy_of([True] * 20).low == accuracy_of([True] * 20).high == 1.0


def test_the_answer_most_often_given_wins_and_of_equals_the_first():
    for answers, chosen in ((["5", "7", "7", "6"], "7"), (["5", "7", "7", "5"], "5")):
        assert vote(answers, answers).answer == chosen
