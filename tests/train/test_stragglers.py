"""Who is slower than the others is named once."""

from __future__ import annotations

import random

from train.stragglers import WINDOW_STEPS, Straggler, Stragglers


def times(draw: random.Random, slowdowns: list[float]) -> list[float]:
    return [0.1 * slowdown * draw.lognormvariate(0, 0.1) for slowdown in slowdowns]


def found(stragglers: Stragglers, slowdowns: list[float], windows: int) -> list[Straggler]:
    draw = random.Random(1)
    steps = [stragglers.step(times(draw, slowdowns)) for _ in range(windows * WINDOW_STEPS)]
    return [each for step in steps for each in step]


def test_equal_ranks_are_never_named():
    assert found(Stragglers(1.5), [1.0] * 8, 20) == []


def test_a_slow_rank_is_named_once_with_how_slow_it_is():
    for ranks in (2, 3, 8):
        (slow,) = found(Stragglers(1.5), [*[1.0] * (ranks - 1), 2.0], 5)
        assert slow.rank == ranks - 1
        assert 1.8 < slow.ratio < 2.2 and 0.18 < slow.seconds < 0.22


def test_a_rank_that_recovers_can_be_named_again():
    stragglers = Stragglers(1.5)
    for slowdown, named in ((3.0, 1), (1.0, 0), (3.0, 1)):
        assert len(found(stragglers, [1.0, slowdown], 2)) == named


def test_single_slow_steps_are_no_sign_of_a_slow_rank():
    stragglers, draw = Stragglers(1.5), random.Random(2)
    for step in range(10 * WINDOW_STEPS):
        assert stragglers.step(times(draw, [1.0, 50.0 if step % 5 == 0 else 1.0])) == []


def test_one_process_and_a_ratio_of_0_name_nobody():
    assert found(Stragglers(1.5), [1.0], 2) == []
    assert found(Stragglers(0), [1.0, 9.0], 2) == []
