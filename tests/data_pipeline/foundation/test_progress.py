"""Progress, by a clock of the tests' own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from data_pipeline.foundation import progress
from data_pipeline.foundation.progress import Task, duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(task: Task, clock: Clock, seconds: float, amount: int, steps: int) -> None:
    for _ in range(steps):
        clock.now += seconds
        task.advance(amount)


def test_time_left_follows_a_change_of_speed(clock):
    task = Task("encoding", 10_000, "MB")
    work(task, clock, 1, 10, 300)  # 10 MB a second
    assert task.seconds_left() == pytest.approx(700)
    work(task, clock, 1, 1, 150)  # and now one
    assert task.seconds_left() == pytest.approx(10_000 - 3150)


def test_a_long_wait_before_the_start_is_forgotten(clock):
    task = Task("encoding", 7200, "MB")
    clock.now += 3600  # in the queue
    work(task, clock, 1, 1, 1800)
    assert task.seconds_left() == pytest.approx(5400)


def test_the_longer_nothing_is_done_the_later_the_end(clock):
    task = Task("encoding", 200, "MB")
    work(task, clock, 1, 1, 100)
    before = task.seconds_left()
    clock.now += 300
    assert task.seconds_left() > 10 * before


def test_what_an_earlier_process_did_is_no_speed(clock):
    task = Task("encoding", 1000, "MB")
    clock.now += 1
    task.skip(500)
    work(task, clock, 1, 1, 10)
    assert task.done == 510 and task.seconds_left() == pytest.approx(490)


def test_few_long_items_are_no_standstill(clock):
    task = Task("encoding", 1000, "MB")
    work(task, clock, 60, 100, 5)
    assert task.seconds_left() == pytest.approx(300)


def test_nothing_is_promised_before_something_is_done(clock):
    task = Task("encoding", 1000, "MB")
    assert task.seconds_left() is None
    clock.now += 50
    task.advance(0)
    assert task.seconds_left() is None
    assert Task("reading", None, "documents").seconds_left() is None


def test_memory_is_bounded_however_often_progress_is_made(clock):
    task = Task("counting", 1_000_000, "tokens")
    work(task, clock, 0.001, 1, 200_000)
    assert len(task._marks) < 50


def test_a_plain_line_tells_amount_share_and_time_left(clock, capsys):
    with Task("encoding", 4000, "MB") as task:
        work(task, clock, 1, 20, 50)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "encoding: 400 of 4,000 MB, 10 %, 20 s, about 3 min left"
    assert lines[-1] == "encoding: 1,000 MB in 50.0 s"
    assert len(lines) == 6


def test_a_terminal_shows_the_time_left_too(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    with Task("encoding", 4000, "MB") as task:
        work(task, clock, 1, 20, 50)
        task._bar.refresh()
    assert "1000/4000" in screen.getvalue() and "2 min left" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (7500, "2 h 5 min"), (360_000, "4 d 4 h")],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text
