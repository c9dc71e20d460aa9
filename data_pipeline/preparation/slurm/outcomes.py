"""What the tasks of an array tell whoever waits for them, by files that each have one writer.

    finished/RANK-RESTART   the number of every item that is done, a line each
    failed/RANK-RESTART     the error of a task that counts most, as JSON

A task that SLURM starts again, because its node was lost or wanted by others, writes to files of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.records import write_record


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


@dataclass(frozen=True)
class Outcomes:
    """Of an array."""

    folder: Path

    def make_folders(self) -> None:
        for kind in ("finished", "failed"):
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def writer(self, rank: int, restart: int) -> Writer:
        return Writer(self.folder, rank, restart)

    def finished(self) -> set[int]:
        """Return the numbers of all items that are done."""
        numbers: set[int] = set()
        for path in self.folder.glob("finished/*"):
            numbers.update(int(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return numbers

    def errors(self) -> list[ItemError]:
        """Return the error of every task that has one, in the order of the items."""
        errors = [ItemError(**json.loads(path.read_bytes())) for path in self.folder.glob("failed/[0-9]*")]
        return sorted(errors, key=lambda error: error.item)


@dataclass(frozen=True)
class Writer:
    """Of one task, in its first start or one of its restarts."""

    folder: Path
    rank: int
    restart: int

    def finish(self, item: int) -> None:
        """Note that an item is done. The file is closed each time: only then other machines are sure to see it."""
        with open(self._file("finished", self.restart), "a") as file:
            file.write(f"{item}\n")

    def fail(self, item: int, kind: str, message: str) -> None:
        """Note a task's first error; a mistake of the user's takes its place."""
        error, path = ItemError(item, kind, message, self.rank), self._file("failed", self.restart)
        if error.is_mistake or not path.exists():
            write_record(path, asdict(error))

    def got_nowhere(self, starts: int) -> bool:
        """Return whether so many starts before this one have not finished a single item."""
        earlier = range(self.restart - starts, self.restart)
        return self.restart >= starts and not any(self._file("finished", restart).exists() for restart in earlier)

    def _file(self, kind: str, restart: int) -> Path:
        return self.folder / kind / f"{self.rank}-{restart}"
