"""Tasks as phases have them, whose ends the tests hold in their hands. Nodes import this module."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import write_text

GATE_SECONDS = 60.0
ERRORS = {"user": UserError, "failure": Failure, "value": ValueError}


@dataclass(frozen=True)
class Square:
    """Writes the square of a number, and beside it where and how often that was tried.

    Args:
        gate: nothing is written before a file of this name is there; an item's try can be seen by then.
        bad: how items go wrong: by an error of a name, or `killed`, or `killed once`.
    """

    folder: Path
    gate: str | None = None
    bad: tuple[tuple[int, str], ...] = ()

    def result(self, item: int) -> Path:
        return self.folder / str(item)

    def tries(self, item: int) -> list[str]:
        """Return the nodes on which an item has been begun."""
        path = self.folder / f"{item}.tries"
        return path.read_text().split() if path.exists() else []

    def __call__(self, item: int) -> None:
        if self.result(item).exists():
            return
        with open(self.folder / f"{item}.tries", "a") as file:
            file.write(f"{socket.gethostname()}\n")
        self._go_wrong(item, dict(self.bad).get(item, ""))
        deadline = time.monotonic() + GATE_SECONDS
        while self.gate and not (self.folder / self.gate).exists():
            assert time.monotonic() < deadline, "nobody opens the gate"
            time.sleep(0.02)
        write_text(self.result(item), str(item * item))

    def _go_wrong(self, item: int, how: str) -> None:
        if how in ERRORS:
            raise ERRORS[how](f"number {item} is odd in $(many) 'ways'")
        if how == "killed" or (how == "killed once" and len(self.tries(item)) == 1):
            os._exit(137)
