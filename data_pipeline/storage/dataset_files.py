"""The files of a dataset, wherever they lie: whole, as the manifest says, or refused before a byte of them is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import file_hash
from data_pipeline.manifest import StoredFile


class BadFile(Failure):
    """A file of a dataset that can't be had, or isn't what the manifest says.

    Args:
        name: of the file in the dataset.
        message: for a person.
    """

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


class NoRoom(Failure):
    """All the room for files from a server is taken by files in use."""


class DatasetFiles(Protocol):
    """Where the files of one dataset are.

    Args:
        name: of the dataset, for messages.
        folder: with `manifest.json` and `tokenizer/`: the dataset's own, or a copy.
    """

    name: str
    folder: Path

    @property
    def limit(self) -> int | None:
        """Bytes that can be held at once; None where all of them are."""
        ...

    def open(self, file: StoredFile, patient: bool = True) -> BinaryIO:
        """Return a file, open for reading. It stays where it is as long as it, or a map of it, is open.

        Args:
            patient: wait until others make room for it.

        Raises:
            BadFile: it is missing, can't be reached, or isn't what the manifest says.
            NoRoom: there is none for it.
            Failure: this machine's disk fails.
        """
        ...

    def require(self, files: Iterable[StoredFile]) -> None:
        """Look whether files are there, if that can be seen at a glance. Raises BadFile where one is not."""
        ...

    def want(self, reader: str, files: Sequence[StoredFile]) -> None:
        """Say what a reader needs from now on, the most urgent first. Replaces what it said before."""
        ...

    def crowded(self) -> bool:
        """Tell whether another process waits for room, so files that are held open should be let go."""
        ...


class LocalFiles:
    """The files in a folder of this machine, each hashed when it is first opened."""

    limit = None

    def __init__(self, folder: Path):
        self.name, self.folder = str(folder), folder
        self._verified: set[str] = set()

    def open(self, file: StoredFile, patient: bool = True) -> BinaryIO:
        path = self.folder / file.name
        try:
            if file.name not in self._verified:
                self.require([file])
                if file_hash(path) != file.xxh3_128:
                    raise BadFile(file.name, f"{path} is damaged: its checksum is not the manifest's; {self._mend}")
                self._verified.add(file.name)
            return open(path, "rb")
        except OSError as error:
            raise BadFile(file.name, f"{path} can't be read: {error.strerror}; {self._mend}") from None

    def require(self, files: Iterable[StoredFile]) -> None:
        for file in files:
            path = self.folder / file.name
            if not path.exists():
                raise BadFile(file.name, f"{path} is missing: {self._mend}")
            if (size := os.path.getsize(path)) != file.bytes:
                raise BadFile(file.name, f"{path} has {size} bytes instead of {file.bytes}: {self._mend}")

    def want(self, reader: str, files: Sequence[StoredFile]) -> None:
        """Nothing needs to be fetched."""

    def crowded(self) -> bool:
        return False

    @property
    def _mend(self) -> str:
        return (
            f"run `headrace verify source={self.folder}` to see what else is damaged, then restore or prepare it again"
        )
