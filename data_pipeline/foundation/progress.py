"""Progress of long work: a live display on a terminal, plain lines everywhere else. All of it on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0

console = Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line for the person who waits. `message` may hold rich markup."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(message)


class Task:
    """One piece of long work with a known or unknown amount, shown as a bar or as a line every ten seconds.

    Args:
        name: what is being done, in a few words.
        total: amount of work, or None where it isn't known.
        unit: what is counted, in the plural.
    """

    def __init__(self, name: str, total: int | None, unit: str):
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Task:
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._bar.start()
            self._bar.add_task(self.name, total=self.total)
        return self

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            of_total = f" of {self.total:,}" if self.total else ""
            say(f"{self.name}: {self.done:,}{of_total} {self.unit}, {self._last_line - self._started:.0f} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            seconds = time.monotonic() - self._started
            say(f"{self.name}: {self.done:,} {self.unit} in {seconds:.1f} s")
