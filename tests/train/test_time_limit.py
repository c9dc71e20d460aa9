"""A run stops while there is time for one more step and a checkpoint."""

from __future__ import annotations

import pytest

from data_pipeline.foundation.errors import UserError
from train.time_limit import TimeLimit, parse_seconds


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def steps_until_stop(limit: TimeLimit, clock: Clock, seconds: float) -> int:
    for step in range(1, 10_000):
        clock.now += seconds
        if limit.reason():
            return step
    raise AssertionError("never stopped")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), (20.5, 20.5), ("04:00:00", 14400), ("1-02:00:30", 93630), ("00:01:00", 60)]
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "4h", "00:00:00", "-5", "1:2", ""])
def test_other_times_are_refused(text):
    with pytest.raises(UserError, match="time_limit"):
        parse_seconds(text)


def test_it_leaves_room_for_a_step_and_a_checkpoint_as_long_as_they_have_been():
    clock = Clock()
    limit = TimeLimit("1000", 0, {}, clock)
    clock.now += 50
    assert limit.reason() is None
    limit.saved(100)
    end = 1_000_000 + 1000
    steps_until_stop(limit, clock, 20)
    # The slowest step so far was of 50 s, slowly forgotten.
    assert 20 + 100 < end - clock.now < 10 + 1.5 * (50 + 100) + 20


def test_before_the_first_checkpoint_its_size_tells():
    clock = Clock()
    small, large = (TimeLimit("1000", size, {}, clock) for size in (0, 50e9))
    clock.now += 100
    assert small.reason() is None
    assert large.reason() == "time_limit=1000 is near"


def test_slurms_end_of_the_job_counts_where_it_comes_first():
    clock = Clock()
    for limit, expected in ((None, "the job's time limit is near"), ("60", "time_limit=60 is near")):
        both = TimeLimit(limit, 0, {"SLURM_JOB_END_TIME": "1000600"}, clock)
        clock.now = 1_000_595.0
        assert both.reason() == expected
        clock.now = 1_000_000.0


def test_without_a_limit_it_never_stops():
    clock = Clock()
    limit = TimeLimit(None, 1e12, {}, clock)
    clock.now += 1e9
    assert limit.reason() is None
