"""What the guard takes for bad, what it remembers, and where it goes back to."""

from __future__ import annotations

import json
import math
import random

import pytest

from data_pipeline.foundation.errors import Failure, UserError
from train.guard import Guard, GuardConfig, check_guard


def warmed_up(config: GuardConfig | None = None) -> Guard:
    """Return a guard that has seen losses of 3 ± 0.1 and gradients around 0.5."""
    config = config or GuardConfig()
    guard, draw = Guard(config, {}), random.Random(3)
    for _ in range(config.warmup):
        guard.learnt(draw.gauss(3, 0.1), draw.lognormvariate(math.log(0.5), 0.3))
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_bad_from_the_first_step_on(value):
    guard = Guard(GuardConfig(), {})
    assert guard.judge(11.0, 3.0) is None
    assert "loss" in (guard.judge(value, 3.0) or "")
    assert "gradient" in (guard.judge(11.0, value) or "")


def test_a_spike_is_bad_once_there_is_something_to_compare_with():
    guard = Guard(GuardConfig(warmup=10), {})
    for _ in range(9):
        guard.learnt(3.0, 0.5)
    assert guard.judge(30.0, 50.0) is None
    guard.learnt(3.0, 0.5)
    assert "30" in (guard.judge(30.0, 0.5) or "")
    assert "50" in (guard.judge(3.0, 50.0) or "")
    assert guard.judge(3.2, 4.9) is None


def test_ten_thousand_ordinary_steps_never_trip_it():
    guard, draw = Guard(GuardConfig(), {}), random.Random(5)
    for step in range(10_000):
        # Falling, noisy losses, and gradient norms with the heavy tail that is measured in training.
        loss = 2.5 + 3 * math.exp(-step / 300) + draw.gauss(0, 0.15)
        norm = draw.lognormvariate(math.log(0.5), 0.45)
        assert guard.judge(loss, norm) is None
        guard.learnt(loss, norm)


def test_bad_steps_are_no_measure_for_others():
    guard = warmed_up()
    for step in range(100, 120):
        assert guard.judge(9.0, 0.5)
        guard.skipped(step)
    assert guard.judge(9.0, 0.5)


def test_another_stage_of_the_data_is_measured_anew():
    guard = warmed_up()
    assert guard.judge(9.0, 0.5)
    guard.enter(1)
    assert guard.judge(9.0, 0.5) is None
    assert guard.judge(math.nan, 0.5)


def test_what_it_remembers_goes_through_json_bit_for_bit():
    guard = warmed_up()
    guard.skipped(70)
    again = Guard(GuardConfig(), json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.judge(4.4, 0.5) == guard.judge(4.4, 0.5)


def test_it_rolls_back_after_so_many_bad_steps_in_a_row():
    guard = warmed_up(GuardConfig(skips=3))
    assert [guard.skipped(step) for step in (100, 101)] == [False, False]
    guard.learnt(3.0, 0.5)
    assert [guard.skipped(step) for step in (103, 104, 105)] == [False, False, True]


def test_it_returns_to_before_the_trouble_and_further_back_if_that_led_into_it_again():
    guard = warmed_up(GuardConfig(skips=2, rollbacks=2))
    for step in (101, 102):
        guard.skipped(step)
    assert [guard.may_return_to(step) for step in (101, 100, 90)] == [False, True, True]
    guard.require_rollback(102, "the loss is nan")
    assert guard.rolled_back(100) == 1
    for step in (103, 104):
        guard.skipped(step)
    assert [guard.may_return_to(step) for step in (102, 100, 90)] == [False, False, True]
    assert guard.rolled_back(90) == 2
    guard.learnt(3.0, 0.5)
    for step in (106, 107):
        guard.skipped(step)
    assert guard.may_return_to(105)
    with pytest.raises(Failure, match="rolled back 2 times"):
        guard.require_rollback(107, "the loss is nan")


@pytest.mark.parametrize(
    "settings", [{"skips": 0}, {"warmup": 1}, {"window": 10}, {"loss_spike": -1}, {"gradient_spike": 0.5}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match=r"guard\."):
        check_guard(GuardConfig(**settings))
