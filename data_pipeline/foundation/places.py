"""Folders to write to that may be on this machine or in an object store: files are put there, listed, read, removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import READ_BYTES, sync_folder, whole_file
from data_pipeline.foundation.locations import open_location, shown, split_scheme
from data_pipeline.foundation.object_store import objects_under, put_object, remove_object


def check_place(location: str) -> None:
    """Refuse a location that can't be written to, without asking it.

    Raises:
        UserError: says which can.
    """
    scheme, rest = split_scheme(location)
    if scheme in ("http", "https"):
        raise UserError(f"{shown(location)} can't be written to: give a path, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if scheme != "file" and not rest.strip("/"):
        raise UserError(f"{shown(location)} names no bucket: write {scheme}://BUCKET/PREFIX")


class Place:
    """One such folder. A file in it is either whole or absent, also where a folder can't be renamed.

    Args:
        location: a path, `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`.

    Raises:
        UserError: of every method: it is forbidden, or not there where it must be.
        Failure: of every method: it can't be reached, after a bounded number of attempts, or is full.
    """

    def __init__(self, location: str):
        check_place(location)
        self._scheme, path = split_scheme(location)
        self._path = path.rstrip("/") or "/"
        self._local = self._scheme == "file"
        self.name = shown(location)

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self._at()}/{name}")

    def files(self) -> dict[str, int]:
        """Return all files in it and its folders, by relative name, with their bytes; none if it isn't there."""
        if not self._local:
            return objects_under(self._scheme, self._path)
        root = Path(self._path)
        paths = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
        return {str(path.relative_to(root)): path.stat().st_size for path in paths}

    def put(self, source: Path, name: str) -> None:
        """Copy a file of this machine there, over an earlier one of that name.

        Raises:
            FileNotFoundError: the source is gone.
        """
        if not self._local:
            put_object(self._scheme, f"{self._path}/{name}", str(source))
            return
        with open(source, "rb") as content:
            try:
                target = Path(self._path) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(target) as file:
                    shutil.copyfileobj(content, file, READ_BYTES)
            except OSError as error:
                raise Failure(f"{self.name}/{name} can't be written: {error.strerror}") from None

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return open_location(f"{self._at()}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and on this machine the folder that it leaves empty."""
        if not self._local:
            remove_object(self._scheme, f"{self._path}/{name}")
            return
        target = Path(self._path) / name
        try:
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                sync_folder(target.parent)
                if not os.listdir(target.parent):
                    target.parent.rmdir()
        except OSError as error:
            raise Failure(f"{self.name}/{name} can't be removed: {error.strerror}") from None

    def _at(self) -> str:
        return self._path if self._local else f"{self._scheme}://{self._path}"
