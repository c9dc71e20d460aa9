"""The run's own record: one JSON line per logged step, event and sample, whole lines only."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from rich.markup import escape

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import write_text
from data_pipeline.foundation.progress import say

WAITING_LINES = 10_000
METRICS, EVENTS, SAMPLES = "metrics.jsonl", "events.jsonl", "samples.jsonl"


class Recorder:
    """Appends to `metrics.jsonl`, `events.jsonl` and `samples.jsonl` of a run folder.

    Each line is handed to the operating system in one write, so a killed process loses nothing it recorded. What a
    lost machine may leave half-written at the end of a file is cut off when the run starts again. A disk that is full
    or away delays lines and is told once; only a start needs it.
    """

    def __init__(self, folder: Path):
        self._metrics = _Lines(folder / METRICS)
        self._events = _Lines(folder / EVENTS)
        self._samples = _Lines(folder / SAMPLES)

    def metrics(self, row: dict[str, Any]) -> None:
        """Record what was measured at a step; a value that isn't finite is written as null."""
        self._metrics.append(row)

    def event(self, kind: str, step: int, **details: Any) -> None:
        """Record that something happened: started, resumed, checkpoint_saved, failed …"""
        self._events.append({"kind": kind, "step": step, **details})

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Record what the model wrote after `prompt`."""
        self._samples.append({"step": step, "prompt": prompt, "text": text})

    def rewind(self, step: int) -> int:
        """Forget metrics and samples after `step`: the run goes on from there and will record those steps again.

        Events stay: they happened.

        Returns:
            how many rows of metrics were dropped.
        """
        self._samples.keep_until(step)
        return self._metrics.keep_until(step)

    def close(self) -> None:
        for lines in (self._metrics, self._events, self._samples):
            lines.close()


def append_event(folder: Path, kind: str, step: int, **details: Any) -> None:
    """Record an event beside the run's recorder, which another process or a stuck thread has."""
    line = json.dumps({"kind": kind, "step": step, **details, "time": round(time.time(), 3)}, ensure_ascii=False)
    descriptor = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode("utf-8", errors="replace") + b"\n")
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; none if it doesn't exist.

    What can't be read as a row, such as the torn last line of a run that was killed or still goes on, is left out.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class _Lines:
    """One JSON-lines file that is only ever appended to by whole lines.

    Lines that can't be written, because the disk is full or away, wait in memory and are written with the next that
    can: no row is worth a run. Of more than `WAITING_LINES` the oldest are dropped, and counted.
    """

    def __init__(self, path: Path):
        self.path = path
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._told = False
        try:
            self._open()
        except OSError as error:
            raise Failure(f"{path} can't be written ({error.strerror}): mend it, then start again") from None

    def _open(self) -> None:
        self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115, it stays open for the run
        self._bytes = _end_of_last_whole_line(self._file.fileno())
        self._file.truncate(self._bytes)

    def append(self, row: dict[str, Any]) -> None:
        line = json.dumps({**_finite(row), "time": round(time.time(), 3)}, ensure_ascii=False, allow_nan=False)
        self._waiting.append(line.encode("utf-8", errors="replace") + b"\n")
        try:
            self._write_waiting()
        except OSError as error:
            if len(self._waiting) > WAITING_LINES:
                self._waiting.popleft()
                self._dropped += 1
            if not self._told:
                self._told = True
                say(
                    escape(
                        f"can't record to {self.path}: {error.strerror}. Training goes on; "
                        "what can't be written now is kept and written later"
                    )
                )

    def _write_waiting(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            try:
                if self._file.write(data) != len(data):
                    raise OSError(None, "no space is left on the disk")
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._bytes)
                raise
            self._bytes += len(data)
            self._waiting.popleft()

    def keep_until(self, step: int) -> int:
        rows = read_lines(self.path)
        kept = [row for row in rows if row.get("step", 0) <= step]
        if len(kept) < len(rows):
            self._file.close()
            try:
                write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
            except OSError as error:
                raise Failure(f"{self.path} can't be written ({error.strerror}): mend it, then start again") from None
            self._open()
        return len(rows) - len(kept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._write_waiting()
        if lost := self._dropped + len(self._waiting):
            say(escape(f"{lost:,} lines of {self.path} could not be written and are lost"))
            self._waiting.clear()
        with contextlib.suppress(OSError):
            self._file.close()


def _end_of_last_whole_line(descriptor: int) -> int:
    """Return the offset after the last line break of a file, 0 if it has none."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _finite(value: Any) -> Any:
    """Return a JSON value like `value`: null for NaN and infinity, plain numbers for those of numpy and torch."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return _finite(value.item()) if hasattr(value, "item") else str(value)
