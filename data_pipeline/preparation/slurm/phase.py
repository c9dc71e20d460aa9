"""A phase on its way through one array or several: what is to be done, what is done, and why something isn't."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.slurm.outcomes import Outcomes
from data_pipeline.preparation.slurm.queue import ArrayTask

ADVICE = {"TIMEOUT": "engine.time", "OUT_OF_MEMORY": "engine.memory"}
"""Settings that would have helped."""


@dataclass(frozen=True)
class Phase:
    """What is to be done.

    Args:
        amounts: of work in each item.
        folder: with a numbered folder for each of its arrays.
    """

    name: str
    task: Callable[[Any], None]
    items: Sequence[Any]
    amounts: Sequence[int]
    folder: Path

    def arrays(self) -> int:
        """Return how many arrays there have been."""
        return max((int(path.name) for path in self.folder.glob("[0-9]*")), default=0)

    def array(self, number: int, prefix: str) -> Array:
        return Array(f"{prefix}-{number}", self.folder / str(number))

    def left(self) -> list[int]:
        """Return the numbers of the items that no array has done."""
        finished: set[int] = set()
        for number in range(1, self.arrays() + 1):
            finished |= Outcomes(self.folder / str(number)).finished()
        return [item for item in range(len(self.items)) if item not in finished]

    def done(self, left: Sequence[int]) -> int:
        """Return the amount of work that is done where some items are left."""
        return sum(self.amounts) - sum(self.amounts[item] for item in left)


@dataclass(frozen=True)
class Array:
    """A job array: its name in SLURM's queue, and the folder of its files."""

    name: str
    folder: Path

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(self.folder)

    def log(self, rank: int) -> Path:
        """Return the log of a task, or the folder where there is none."""
        return max(self.folder.glob(f"*_{rank}.log"), default=self.folder)

    def raise_mistake(self) -> None:
        """Raise UserError where a task has, for then nothing else will help."""
        for error in self.outcomes.errors():
            if error.is_mistake:
                raise UserError(error.message)

    def trouble(self, tasks: Sequence[ArrayTask]) -> Failure:
        """Return why items are left undone, as a task has said it, or as SLURM does."""
        for error in self.outcomes.errors():
            return Failure(f"{error} (log: {self.log(error.rank)})")
        for task in tasks:
            if task.state != "COMPLETED":
                log = self.log(task.rank)
                how = task.reason if task.is_stuck else task.state
                advice = f"; raise {ADVICE[how]}" if how in ADVICE else ""
                return Failure(
                    f"task {task.rank} of job {task.job} ended with {how}{_last_line(log)}{advice} (log: {log})"
                )
        return Failure(f"the array job {self.name} has ended and left items undone (logs: {self.folder})")


def _last_line(log: Path) -> str:
    """Return the last line of a log, behind a colon; nothing where there is none."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
    return ""
