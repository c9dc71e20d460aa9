"""What the person at the terminal sees of a training run: one live line there, plain lines in a log."""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

FIRST_STEPS = 3
LINE_SECONDS = 5.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 24


class Display:
    """Shows how far a run is, on standard error.

    Args:
        total_steps: the step that the run ends with.
        first_step: the step that it starts after: 0, or the checkpoint's.
        tokens_per_step: tokens in the global batch.
    """

    def __init__(self, total_steps: int, first_step: int, tokens_per_step: int):
        self.total_steps, self.first_step, self.tokens_per_step = total_steps, first_step, tokens_per_step
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._row: dict[str, Any] = {}
        self._validation_loss: float | None = None
        self._losses = _Thinned(SPARK_COLUMNS * 2)
        self._pace = _Pace(first_step)
        self._lines = 0
        self._last_line = 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def update(self, row: dict[str, Any]) -> None:
        """Show a row of metrics; a key that is missing or None is left out."""
        self._row = row
        self._pace.reached(row["step"])
        if _measured(row, "validation_loss"):
            self._validation_loss = row["validation_loss"]
        if _measured(row, "loss") and math.isfinite(row["loss"]):
            self._losses.add(row["loss"])
        now = time.monotonic()
        due = self._lines < FIRST_STEPS or now - self._last_line >= LINE_SECONDS or row["step"] >= self.total_steps
        if self._live is None and (due or _measured(row, "validation_loss")):
            self._lines += 1
            self._last_line = now
            self._console.print(self._line(row), markup=False)

    def note(self, message: str) -> None:
        """Print a message above the live line. It may hold text from a model: nothing in it is interpreted."""
        self._console.print(_printable(message), markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._row and error is None and self._row["step"] < self.total_steps:
            self._console.print(self._line(self._row), markup=False)

    def _line(self, row: dict[str, Any]) -> str:
        parts = [f"step {row['step']:,}/{self.total_steps:,}"]
        if _measured(row, "loss"):
            parts.append(f"loss {row['loss']:.4f}")
        if _measured(row, "reward"):
            parts.append(f"reward {row['reward']:.3f}")
        if _measured(row, "validation_loss"):
            parts.append(f"validation {row['validation_loss']:.4f}")
        if _measured(row, "grad_norm"):
            parts.append(f"gradient {row['grad_norm']:.2f}")
        if _measured(row, "learning_rate"):
            parts.append(f"rate {row['learning_rate']:.2e}")
        return "  ".join(parts + self._speed(row))

    def _speed(self, row: dict[str, Any]) -> list[str]:
        parts = []
        if _measured(row, "tokens_per_second"):
            parts.append(f"{amount(row['tokens_per_second'])} tokens/s")
        if _measured(row, "mfu"):
            parts.append(f"MFU {row['mfu']:.0%}")
        seconds = self._pace.seconds_per_step()
        if seconds is not None and row["step"] < self.total_steps:
            parts.append(f"{duration(seconds * (self.total_steps - row['step']))} left")
        return parts

    def _render(self) -> Group:
        row, width = self._row, self._console.width
        step = row.get("step", self.first_step)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{step:,}/{self.total_steps:,}", style="bold"),
            ProgressBar(total=self.total_steps, completed=step, width=max(10, min(40, width - 46))),
            Text(f"{step / max(1, self.total_steps):.0%}  {amount(step * self.tokens_per_step)} tokens", style="dim"),
        )
        if not row:
            return Group(head, Text("the first step takes longest", style="dim"))
        figures = Text(no_wrap=True, overflow="ellipsis")
        if _measured(row, "loss"):
            figures.append("loss ", style="dim").append(f"{row['loss']:.4f}", style="bold")
            figures.append(f" {sparkline(self._losses.values, SPARK_COLUMNS)}", style="cyan")
        if _measured(row, "reward"):
            figures.append("  reward ", style="dim").append(f"{row['reward']:.3f}", style="bold")
        if self._validation_loss is not None:
            figures.append("  validation ", style="dim").append(f"{self._validation_loss:.4f}", style="bold")
        figures.append("  " + "  ".join(self._speed(row)), style="dim")
        return Group(head, figures)


class _Pace:
    """Seconds per step, over the last minute or so: recent enough to be true, long enough to be calm."""

    def __init__(self, step: int):
        self._times = deque([(step, time.monotonic())], maxlen=200)

    def reached(self, step: int) -> None:
        now = time.monotonic()
        if step < self._times[-1][0]:
            self._times.clear()
        self._times.append((step, now))
        # The first step compiles and warms up; it says nothing about the rest.
        if len(self._times) == 3:
            self._times.popleft()
        while len(self._times) > 10 and now - self._times[0][1] > 60:
            self._times.popleft()

    def seconds_per_step(self) -> float | None:
        (first, began), (last, ended) = self._times[0], self._times[-1]
        return (ended - began) / (last - first) if last > first else None


class _Thinned:
    """A whole history in bounded memory: neighbours are averaged each time it is full."""

    def __init__(self, limit: int):
        self._limit, self._every = limit, 1
        self._pending: list[float] = []
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._every:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending = []
        if len(self.values) >= self._limit:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2])]
            self._every *= 2


def sparkline(values: list[float], columns: int) -> str:
    """Return values as a row of bars, lowest to highest; the last `columns` of them."""
    shown = values[-columns:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)


def amount(number: float) -> str:
    """Return a number to three digits with its thousands as k, M, G, T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{number / size:.4g}{letter}" if abs(number) >= size * 999.5 else f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _measured(row: dict[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float))


def _printable(text: str) -> str:
    """Return text whose control characters, which could steer the terminal, are shown instead of sent."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found.group()):02x}", text)
