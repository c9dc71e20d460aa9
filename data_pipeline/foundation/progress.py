"""Progress of long work: a live display on a terminal, plain lines everywhere else. All of it on standard error."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Row
from rich.text import Text

LINE_SECONDS = 10.0
RECENT_SECONDS, RECENT_SHARE = 30.0, 0.2
"""The speed is that of the last part of the time: so many seconds at least, and such a share."""

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
        self._marks = deque([(self._started, 0)])
        self._bar: Progress | None = None

    def __enter__(self) -> Task:
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                _TimeLeft(self),
            )
            self._bar = Progress(*columns, console=console)
            self._bar.start()
            self._bar.add_task(self.name, total=self.total)
        return self

    def skip(self, amount: int) -> None:
        """Count what was done before, by another process."""
        self.advance(amount)
        self._marks = deque([(time.monotonic(), self.done)])

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        now = time.monotonic()
        if amount:
            self._mark(now)
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            say(f"{self.name}: {', '.join(self._amounts())}, {now - self._started:.0f} s{self._left()}")

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at the speed of late, or None where nothing is known."""
        now, (then, done) = time.monotonic(), self._marks[0]
        if not self.total or self.done == done or now == then:
            return None
        return max(0, self.total - self.done) * (now - then) / (self.done - done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            seconds = time.monotonic() - self._started
            say(f"{self.name}: {self.done:,} {self.unit} in {seconds:.1f} s")

    def _mark(self, now: float) -> None:
        """Note how much is done, and forget what isn't needed to know the speed of late."""
        if now - self._marks[-1][0] < 1 and len(self._marks) > 1:
            self._marks.pop()
        self._marks.append((now, self.done))
        recent = now - max(RECENT_SECONDS, RECENT_SHARE * (now - self._started))
        while len(self._marks) > 2 and self._marks[1][0] <= recent:
            self._marks.popleft()

    def _amounts(self) -> list[str]:
        if not self.total:
            return [f"{self.done:,} {self.unit}"]
        return [f"{self.done:,} of {self.total:,} {self.unit}", f"{100 * self.done // self.total} %"]

    def _left(self) -> str:
        seconds = self.seconds_left()
        return "" if seconds is None else f", about {duration(seconds)} left"


class _TimeLeft(ProgressColumn):
    def __init__(self, work: Task):
        super().__init__()
        self._work = work

    def render(self, task: Row) -> Text:
        seconds = self._work.seconds_left()
        return Text("" if seconds is None else f"{duration(seconds)} left", style="progress.remaining")


def duration(seconds: float) -> str:
    """Return a duration as a person says it: `40 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 99:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
