"""A run that changes on its way is cut into segments of whole steps, and every step finds its own."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.curriculum import RampConfig, StageConfig, plan_segments
from data_pipeline.foundation.errors import UserError

RAMPS = some.one_of(
    some.none(), some.builds(RampConfig, some.integers(1, 16), some.integers(1, 10_000), some.integers(1, 9))
)
STAGES = some.lists(
    some.builds(
        StageConfig,
        some.integers(1, 10_000),
        sequence_length=some.one_of(some.none(), some.integers(16, 64)),
        sequences=some.one_of(some.none(), some.integers(16, 64)),
    ),
    max_size=4,
)


def test_a_run_that_never_changes_is_one_segment():
    (segment,) = plan_segments(1024, 64)
    assert (segment.first_step, segment.steps, segment.first_sequence) == (0, None, 0)
    assert (segment.length, segment.sequences, segment.stage) == (1024, 64, 0)


@given(STAGES, RAMPS, RAMPS)
def test_segments_follow_each_other_without_gap_or_overlap(stages, length_ramp, batch_ramp):
    segments = plan_segments(64, 64, stages, length_ramp, batch_ramp)
    assert segments[-1].steps is None and all(segment.steps for segment in segments[:-1])
    for segment, following in itertools.pairwise(segments):
        assert following.first_step == segment.first_step + segment.steps
        assert following.first_sequence == segment.first_sequence + segment.steps * segment.sequences
        assert (following.length, following.sequences, following.stage) != (
            segment.length,
            segment.sequences,
            segment.stage,
        )


@given(STAGES, RAMPS, RAMPS)
def test_a_stage_begins_with_the_first_step_after_its_tokens(stages, length_ramp, batch_ramp):
    segments = plan_segments(64, 64, stages, length_ramp, batch_ramp)
    seen = 0
    for segment in segments:
        begins = sum(stage.tokens for stage in stages[: segment.stage])
        assert begins <= seen
        last_step = seen + ((segment.steps or 1) - 1) * segment.sequences * segment.length
        if segment.stage + 1 < len(stages):
            assert last_step < begins + stages[segment.stage].tokens
        seen += segment.tokens or 0


def test_a_ramp_rises_in_equal_rises_to_the_full_value():
    segments = plan_segments(10, 64, batch_ramp=RampConfig(16, 4000, 3))
    assert [segment.sequences for segment in segments] == [16, 32, 48, 64]
    assert [segment.first_step for segment in segments] == [0, 9, 13, 16]
    assert [segment.length for segment in plan_segments(4096, 1, length_ramp=RampConfig(512, 1e6, 7))] == list(
        range(512, 4097, 512)
    )


@given(some.integers(1, 64), some.integers(1, 64), some.integers(1, 12))
def test_a_ramp_is_divided_by_whatever_divides_its_ends(a, b, rises):
    start, full = sorted((a, b))
    values = [segment.sequences for segment in plan_segments(8, full, batch_ramp=RampConfig(start, 10**6, rises))]
    assert values == sorted(values) and values[0] == start and values[-1] == full
    assert all(
        value % divisor == 0 for value in values for divisor in (1, 2, 4, 8) if start % divisor == full % divisor == 0
    )


def test_a_stage_takes_what_it_does_not_say_from_the_run():
    stages = [StageConfig(1000, sequences=4), StageConfig(None, sequence_length=40)]
    first, second = plan_segments(10, 8, stages)
    assert (first.length, first.sequences, first.steps) == (10, 4, 25)
    assert (second.length, second.sequences, second.steps) == (40, 8, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [StageConfig(None), StageConfig(5)]}, r"data\.stages\[0\] doesn't say for how many tokens"),
        ({"stages": [StageConfig(0)]}, r"data\.stages\[0\]\.tokens=0 must be at least 1"),
        ({"stages": [StageConfig(5, sequence_length=0)]}, r"data\.stages\[0\]\.sequence_length=0"),
        ({"length_ramp": RampConfig(128, 10)}, r"data\.ramp\.start=128 must lie between 1 and the full value of 64"),
        ({"batch_ramp": RampConfig(1, 0)}, r"batch\.ramp\.tokens and batch\.ramp\.rises must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        plan_segments(64, 64, **arguments)
