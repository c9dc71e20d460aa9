"""Learning rates: where they start, stay and end."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.foundation.errors import UserError
from train.schedule import KINDS, ScheduleConfig, check_schedule, rate_factor


def factors(steps: int, **settings) -> list[float]:
    return [rate_factor(ScheduleConfig(**settings), step, steps) for step in range(1, steps + 1)]


@given(some.sampled_from(KINDS), some.integers(1, 200), some.floats(0, 1), some.floats(0.01, 1), some.data())
def test_every_schedule_rises_to_one_and_never_rises_again(kind, steps, floor, decay, data):
    warmup = data.draw(some.integers(0, steps))
    found = factors(steps, kind=kind, warmup_steps=warmup, decay_fraction=decay, floor=floor)
    assert found[:warmup] == [step / warmup for step in range(1, warmup + 1)]
    rest = found[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rest))
    assert all(floor - 1e-12 <= factor <= 1.0 for factor in rest)
    if kind != "constant" and rest:
        assert found[-1] == pytest.approx(floor)


def test_linear_is_a_straight_line():
    assert factors(6, kind="linear", warmup_steps=2, floor=0.2) == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_a_wave():
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(1, 11)]
    assert factors(10, kind="cosine", warmup_steps=0, floor=0.1) == pytest.approx(expected)
    assert rate_factor(ScheduleConfig("cosine", 0, floor=0.0), 5, 10) == pytest.approx(0.5)


def test_constant_stays():
    assert factors(5, kind="constant", warmup_steps=2) == [0.5, 1, 1, 1, 1]


def test_wsd_is_stable_until_its_last_part():
    found = factors(20, kind="wsd", warmup_steps=4, decay_fraction=0.25, floor=0.0)
    assert found == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 12, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_wsd_never_decays_before_warm_up_ends():
    assert factors(4, kind="wsd", warmup_steps=2, decay_fraction=1.0, floor=0.0) == pytest.approx([0.5, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "exponential"}, "schedule.kind=exponential: there are constant, linear, cosine, wsd"),
        ({"warmup_steps": 11}, "schedule.warmup_steps=11 must lie between 0 and steps=10"),
        ({"warmup_steps": -1}, "schedule.warmup_steps=-1"),
        ({"floor": 1.5, "warmup_steps": 0}, "schedule.floor"),
        ({"decay_fraction": 0.0, "warmup_steps": 0}, "schedule.decay_fraction"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_schedule(ScheduleConfig(**settings), 10)
