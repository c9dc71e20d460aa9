"""A run that has to end by some time: it stops while there is time left for one more step and a checkpoint."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping

from data_pipeline.foundation.errors import UserError

RESERVE_SECONDS = 10.0
"""For the report and the end of the processes."""
SAVED_BYTES_PER_SECOND = 50e6
"""What a checkpoint is taken to be written with before one has been; slow on purpose."""
SAFETY = 1.5
"""How much longer than the longest so far the last step and the last checkpoint may take."""


def parse_seconds(text: str | float) -> float:
    """Return the seconds of `SECONDS`, `HH:MM:SS` or `D-HH:MM:SS`, as SLURM writes a time.

    Raises:
        UserError: it is none of them.
    """
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d{1,2}):)?(\d+(?:\.\d+)?)", str(text).strip())
    if not found or (seconds := _total(found)) <= 0:
        raise UserError(f"time_limit={text}: write seconds, HH:MM:SS or D-HH:MM:SS")
    return seconds


def _total(found: re.Match[str]) -> float:
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class TimeLimit:
    """Knows when to stop. Each rank has one, and the run stops when the first of them says so.

    Args:
        limit: from now on, as `parse_seconds` takes it; None where none is set.
        state_bytes: of a checkpoint, for the first guess at how long it takes.
        environment: the scheduler's; SLURM says when the job ends in `SLURM_JOB_END_TIME`.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        limit: str | float | None,
        state_bytes: float,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ):
        self._clock = clock
        self._save_seconds = state_bytes / SAVED_BYTES_PER_SECOND
        self._saved = False
        self._step_seconds = 0.0
        self._stepped = clock()
        ends: list[tuple[float, str]] = []
        if limit is not None:
            ends.append((clock() + parse_seconds(limit), f"time_limit={limit}"))
        scheduled = environment.get("SLURM_JOB_END_TIME", "")
        if scheduled.isdigit():
            ends.append((float(scheduled), "the job's time limit"))
        self._end = min(ends, default=None)

    def saved(self, seconds: float) -> None:
        """Learn from a checkpoint how long one takes."""
        self._save_seconds = max(self._save_seconds, seconds) if self._saved else seconds
        self._saved = True
        self._stepped = self._clock()

    def reason(self) -> str | None:
        """Return why to stop after the step that has just ended, or None. Called once after each step."""
        now = self._clock()
        # The longest so far, slowly forgotten: the first step may have taken minutes, validation comes now and then.
        self._step_seconds = max(now - self._stepped, 0.99 * self._step_seconds)
        self._stepped = now
        if self._end is None:
            return None
        end, name = self._end
        needed = RESERVE_SECONDS + SAFETY * (self._step_seconds + self._save_seconds)
        return f"{name} is near" if end - now < needed else None
