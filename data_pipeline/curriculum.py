"""How a run changes on its way: mixtures, sequence lengths and batch sizes as a function of the tokens seen.

Everything is settled beforehand: the run is cut into segments of whole steps within which nothing changes. Which
segment a step is in, and the numbers of its sequences, follow from the step alone.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from data_pipeline.foundation.errors import UserError


@dataclass
class RampConfig:
    """A value that rises in equal rises while the first tokens are seen, to what it is set to otherwise.

    Args:
        start: the value at first; None for the full value from the first step on.
        tokens: seen when the full value is reached.
        rises: how often it rises. In between, values are multiples of what divides both ends.
    """

    start: int | None = None
    tokens: float = 0
    rises: int = 8


NO_RAMP = RampConfig()


@dataclass
class StageConfig:
    """A stretch of the run with settings of its own; what is left out is as in the rest of the run.

    Args:
        tokens: how many it lasts for; None, in the last stage alone, for the rest of the run.
        weights: shares of the sources.
        epochs: passes over sources within this stage.
        sequence_length: T.
        sequences: of a step's batch.
    """

    tokens: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    sequence_length: int | None = None
    sequences: int | None = None


@dataclass(frozen=True)
class Segment:
    """Steps that are alike.

    Args:
        first_step: counted from 0.
        steps: None for all that follow.
        first_sequence: number of the first step's first sequence in the run.
        sequences: of each step, B.
        length: of each sequence, T.
        stage: number of the stage, for its mixture.
    """

    first_step: int
    steps: int | None
    first_sequence: int
    sequences: int
    length: int
    stage: int

    @property
    def tokens(self) -> int | None:
        """Target tokens of the whole segment."""
        return None if self.steps is None else self.steps * self.sequences * self.length


class Steps:
    """Finds the segment and the sequences of every step of a run.

    Args:
        segments: one behind the other; the last one has no end.
    """

    def __init__(self, segments: Sequence[Segment]):
        self.segments = segments
        self._first_steps = [segment.first_step for segment in segments]

    def segment(self, step: int) -> Segment:
        """Return the segment of a step, counted from 0."""
        return self.segments[bisect.bisect_right(self._first_steps, step) - 1]

    def numbers(self, step: int) -> range:
        """Return the numbers of the sequences of a step."""
        segment = self.segment(step)
        first = segment.first_sequence + (step - segment.first_step) * segment.sequences
        return range(first, first + segment.sequences)


@dataclass(frozen=True)
class _Change:
    """From so many tokens on, the run has these settings."""

    tokens: int
    length: int
    sequences: int
    stage: int


def plan_segments(
    length: int,
    sequences: int,
    stages: Sequence[StageConfig] = (),
    length_ramp: RampConfig = NO_RAMP,
    batch_ramp: RampConfig = NO_RAMP,
) -> list[Segment]:
    """Cut a run into segments. A change falls on the first step that begins when its tokens have been seen.

    Args:
        length, sequences: T and B where no stage says otherwise.

    Raises:
        UserError: stages or ramps that make no sense.
    """
    changes = _changes(length, sequences, stages, length_ramp, batch_ramp)
    segments: list[Segment] = []
    step = sequence = tokens = 0
    for change, following in zip(changes, [*changes[1:], None]):
        per_step = change.length * change.sequences
        if following is None:
            segments.append(Segment(step, None, sequence, change.sequences, change.length, change.stage))
            break
        steps = math.ceil((following.tokens - tokens) / per_step)
        if steps > 0:
            segments.append(Segment(step, steps, sequence, change.sequences, change.length, change.stage))
            step += steps
            sequence += steps * change.sequences
            tokens += steps * per_step
    return segments


def _changes(
    length: int,
    sequences: int,
    stages: Sequence[StageConfig],
    length_ramp: RampConfig,
    batch_ramp: RampConfig,
) -> list[_Change]:
    _check(length, sequences, stages, length_ramp, batch_ramp)
    begins, starts = 0, [0]
    for stage in stages:
        begins += int(stage.tokens or 0)
        starts.append(begins)
    rises = [*_rises(length_ramp), *_rises(batch_ramp)]
    found: list[_Change] = []
    for tokens in sorted({*starts[: max(1, len(stages))], *rises}):
        number = max((index for index in range(len(stages)) if starts[index] <= tokens), default=0)
        stage = stages[number] if stages else StageConfig()
        change = _Change(
            tokens,
            _value(stage.sequence_length or length, length_ramp, tokens),
            _value(stage.sequences or sequences, batch_ramp, tokens),
            number,
        )
        if not found or change != replace(found[-1], tokens=tokens):
            found.append(change)
    return found


def _rises(ramp: RampConfig) -> Iterator[int]:
    if ramp.start is not None:
        yield from (round(ramp.tokens * number / ramp.rises) for number in range(1, ramp.rises + 1))


def _value(full: int, ramp: RampConfig, tokens: int) -> int:
    if ramp.start is None or tokens >= round(ramp.tokens):
        return full
    risen = sum(1 for rise in _rises(ramp) if rise <= tokens)
    multiple = math.gcd(ramp.start, full)
    return ramp.start + (full - ramp.start) * risen // ramp.rises // multiple * multiple


def _check(
    length: int,
    sequences: int,
    stages: Sequence[StageConfig],
    length_ramp: RampConfig,
    batch_ramp: RampConfig,
) -> None:
    if length < 1:
        raise UserError(f"data.sequence_length={length} must be at least 1")
    for key, ramp, full in (("data.ramp", length_ramp, length), ("batch.ramp", batch_ramp, sequences)):
        if ramp.start is None:
            continue
        if not 1 <= ramp.start <= full:
            raise UserError(f"{key}.start={ramp.start} must lie between 1 and the full value of {full}")
        if ramp.tokens < 1 or ramp.rises < 1:
            raise UserError(f"{key}.tokens and {key}.rises must be at least 1")
    for number, stage in enumerate(stages):
        key = f"data.stages[{number}]"
        if stage.tokens is None and number < len(stages) - 1:
            raise UserError(f"{key} doesn't say for how many tokens it lasts; only the last stage may go on to the end")
        if stage.tokens is not None and stage.tokens < 1:
            raise UserError(f"{key}.tokens={stage.tokens} must be at least 1")
        for name in ("sequence_length", "sequences"):
            value = getattr(stage, name)
            if value is not None and value < 1:
                raise UserError(f"{key}.{name}={value} must be at least 1")
