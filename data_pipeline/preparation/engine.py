"""Who does the tasks of a phase: processes on this machine, or on many through a scheduler.

A task is a picklable callable. It leaves its result in files, each of which appears in one step, and does nothing where
they are there already. So it doesn't matter who calls it, how often, in which order, or whether it was killed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from data_pipeline.foundation.progress import Task
from data_pipeline.parallel import Workers

Item = TypeVar("Item")


class Engine(Protocol):
    """Does the tasks of a phase."""

    def run(
        self, name: str, task: Callable[[Item], None], items: Sequence[Item], amounts: Sequence[int] | None = None
    ) -> None:
        """Call `task(item)` for every item.

        Args:
            name: of the phase, for a person.
            amounts: megabytes of work in each item, for the display; one step an item without.

        Raises:
            UserError, Failure: as a task raised it.
        """
        ...


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, workers: Workers):
        self._workers = workers

    def run(
        self, name: str, task: Callable[[Item], None], items: Sequence[Item], amounts: Sequence[int] | None = None
    ) -> None:
        steps = amounts or [1] * len(items)
        with Task(name, sum(steps), "MB" if amounts else "parts") as progress:
            for amount, _ in zip(steps, self._workers.map(task, items)):
                progress.advance(amount)
