"""What the tasks of an array tell whoever waits for them, by files that each have one writer.

    outcomes/RANK-RESTART   a line for every item: its number where it is done, or a JSON object that says how it failed

A task that SLURM starts again, because its node was lost or wanted by others, writes to a file of its own. The files of
first starts are there before the tasks are: a network file system shows what is new in a file that is opened again,
but may hide a new file for a minute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import Failure, UserError


@dataclass(frozen=True)
class ItemError:
    """How an item failed.

    Args:
        item: its number.
        kind: name of the exception's type.
        message: for a person.
        rank: of the task.
    """

    item: int
    kind: str
    message: str
    rank: int

    @property
    def is_mistake(self) -> bool:
        return self.kind == UserError.__name__

    def __str__(self) -> str:
        return self.message if self.kind in (UserError.__name__, Failure.__name__) else f"{self.kind}: {self.message}"


class Outcomes:
    """Of all tasks of an array.

    Args:
        folder: of the array.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "outcomes"

    def expect(self, tasks: int) -> None:
        """Make the files of an array that is to be submitted."""
        self._folder.mkdir(parents=True)
        for rank in range(tasks):
            self.writer(rank, 0).path.touch()

    def writer(self, rank: int, restart: int) -> Writer:
        return Writer(self._folder, rank, restart)

    def finished(self) -> set[int]:
        """Return the numbers of all items that are done."""
        return {outcome for outcome in self._read() if isinstance(outcome, int)}

    def errors(self) -> list[ItemError]:
        """Return all errors, in the order of the items."""
        errors = [ItemError(**outcome) for outcome in self._read() if isinstance(outcome, dict)]
        return sorted(errors, key=lambda error: error.item)

    def _read(self) -> Iterator[Any]:
        """Yield what whole lines say; a task that is killed may leave a part of one."""
        for path in self._folder.glob("*-*"):
            lines = path.read_text(encoding="utf-8").split("\n")
            yield from map(json.loads, lines[:-1])


@dataclass(frozen=True)
class Writer:
    """Of one task, in its first start or one of its restarts."""

    folder: Path
    rank: int
    restart: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.rank}-{self.restart}"

    def finish(self, item: int) -> None:
        """Note that an item is done."""
        self._write(item)

    def fail(self, item: int, kind: str, message: str) -> None:
        """Note how an item failed."""
        self._write(asdict(ItemError(item, kind, message, self.rank)))

    def got_nowhere(self, starts: int) -> bool:
        """Return whether so many starts before this one have told nothing."""
        earlier = [self.folder / f"{self.rank}-{restart}" for restart in range(self.restart - starts, self.restart)]
        return self.restart >= starts and not any(path.exists() and path.stat().st_size for path in earlier)

    def _write(self, outcome: int | dict[str, Any]) -> None:
        # Closed each time: only then other machines are sure to see it.
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
