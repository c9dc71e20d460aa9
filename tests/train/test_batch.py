"""The batch divides, or the message says what would."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.foundation.errors import UserError
from train.batch import BatchConfig, BatchPlan, plan_batch


@given(some.integers(1, 16), some.integers(1, 16), some.integers(1, 64))
def test_accumulation_is_what_is_left(micro, accumulation, ranks):
    batch = micro * accumulation * ranks
    assert plan_batch(BatchConfig(batch, micro), ranks) == BatchPlan(batch, micro, accumulation, ranks)
    assert plan_batch(BatchConfig(batch), ranks) == BatchPlan(batch, batch // ranks, 1, ranks)


@given(some.integers(1, 200), some.integers(1, 40), some.integers(1, 16))
def test_a_batch_is_planned_exactly_or_refused(sequences, micro, ranks):
    divides = sequences % ranks == 0 and sequences // ranks % micro == 0
    try:
        plan = plan_batch(BatchConfig(sequences, micro), ranks)
    except UserError as error:
        assert not divides
        suggested = [int(number) for number in re.findall(r"\d+", str(error).split("use ")[1].split(" of ")[-1])]
        for number in suggested:  # what the message proposes is taken
            if sequences % ranks:
                plan_batch(BatchConfig(number), ranks)
            else:
                plan_batch(BatchConfig(sequences, number), ranks)
    else:
        assert divides and plan.micro * plan.accumulation * plan.ranks == sequences


@pytest.mark.parametrize(
    ("batch", "ranks", "message"),
    [
        (BatchConfig(10), 4, "batch.sequences=10 does not divide by 4 ranks: use 8 or 12"),
        (BatchConfig(3), 4, "batch.sequences=3 does not divide by 4 ranks: use 4"),
        (BatchConfig(12, 4), 2, "batch.micro=4 does not divide a rank's share of 6 sequences"),
        (BatchConfig(0), 1, "must be at least 1"),
        (BatchConfig(4, 0), 1, "must be at least 1"),
    ],
)
def test_batches_that_do_not_divide_are_refused_with_those_that_do(batch, ranks, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plan_batch(batch, ranks)
