"""Files from servers, kept in a folder of a limited size that all processes of a machine share.

A file is named by its hash, so datasets that have it in common share it, and nothing but the right bytes ever has its
name. While it arrives it is `HASH.BYTES.part`, and room for all of it is taken: the limit holds at every instant.

Everything is agreed on through `flock`, which the kernel releases when a process dies, however it dies:

- a `.part` is locked by the process that fills it; the others wait for that lock. One that is not locked was left
  behind by a process that died: the next one goes on with it.
- a whole file is locked, together with others, by those who read it or have it mapped: a map keeps the lock. What
  nobody has locked may be removed to make room.
- `lock` is held, for moments only, by whoever makes room, begins a file, or gives one its name.
- `waiting` is locked, together with others, by those who wait for room, so that who only holds files can let them go.
"""

from __future__ import annotations

import fcntl
import io
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import xxhash

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import digest_of
from data_pipeline.foundation.locations import open_location, shown
from data_pipeline.foundation.remote import GivenUp
from data_pipeline.manifest import StoredFile
from data_pipeline.storage.dataset_files import BadFile, NoRoom

CHUNK_BYTES = 1 << 18
ATTEMPTS = 9
"""To reach a server, without progress: it may be away for two minutes."""
TRIES = 3
"""To get the right bytes."""
LEAST_BYTES_PER_SECOND = 1 << 18
GRACE_SECONDS = 600.0
"""A download may take so long, and longer by what its size takes at the least speed."""
ROOM_SECONDS = 120.0
POLL_SECONDS = 0.1
OUR_NAME = re.compile(r"([0-9a-f]{32})(?:\.(\d+)\.part)?")
GIVEN_UP = b"headrace has given this up: "


@dataclass(frozen=True)
class _Entry:
    """A file of ours in the folder.

    Args:
        hash: that it has, or will have.
        bytes: that it has, or will have.
        used: when, last.
    """

    path: str
    hash: str
    bytes: int
    used: float


class FileCache:
    """A folder of files from servers.

    Args:
        folder: for this cache alone; made if need be.
        limit: bytes that its files may have together, over all processes.

    Raises:
        UserError: the folder can't be made.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._urgency: dict[str, int] = {}
        self._verified: set[tuple[str, int]] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                pass
        except OSError as error:
            raise UserError(f"data.cache.folder: {folder} can't be used: {error.strerror}") from None

    def has(self, file: StoredFile) -> bool:
        return os.path.lexists(self._path(file))

    def favour(self, files: Sequence[StoredFile]) -> None:
        """Let others go first when this process makes room, then these from the last to the first."""
        self._urgency = {file.xxh3_128: len(files) - at for at, file in reversed(list(enumerate(files)))}

    def crowded(self) -> bool:
        """Tell whether somebody waits for room."""
        with self._disk_errors_told(), self._waiting() as waiting:
            return not _locked_alone(waiting)

    def open(self, file: StoredFile, location: str, patient: bool = True) -> BinaryIO:
        """Return a file, open for reading, fetched from `location` if need be; see `DatasetFiles.open`."""
        until = time.monotonic() + ROOM_SECONDS
        with self._disk_errors_told():
            while (found := self._whole(file)) is None:
                try:
                    claimed = self._claim(file, math.inf)
                except NoRoom:
                    if not patient or time.monotonic() > until:
                        raise
                    with self._waiting() as waiting:
                        fcntl.flock(waiting, fcntl.LOCK_SH)
                        time.sleep(POLL_SECONDS)
                    continue
                if claimed is None:
                    continue
                part, mine = claimed
                with part:
                    if not mine:
                        _wait_for_the_other(part, file)
                        continue
                    self._fill(part, file, location, needed=True)
                    # The part keeps its lock until what it has become is locked by its name.
                    if (found := self._whole(file)) is not None:
                        break
            return found

    def fetch(self, file: StoredFile, location: str) -> None:
        """Fetch a file before it is needed, unless it is here or another process is at it.

        Raises:
            BadFile: as `open`.
            NoRoom: nothing less urgent can be removed.
        """
        with self._disk_errors_told():
            claimed = self._claim(file, self._urgency.get(file.xxh3_128, 1))
            if claimed is not None:
                part, mine = claimed
                with part:
                    if mine:
                        self._fill(part, file, location, needed=False)

    def _whole(self, file: StoredFile) -> BinaryIO | None:
        """Return a file that is here, locked with others, or None. What was damaged in the meantime is removed."""
        path = self._path(file)
        try:
            found = _opened(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(found, fcntl.LOCK_SH)
        key = file.xxh3_128, os.fstat(found.fileno()).st_ino
        if key not in self._verified and _hash_of(found).hexdigest() != file.xxh3_128:
            with self._alone():
                if _is_at(found, path):
                    path.unlink()
        elif _is_at(found, path):
            self._verified.add(key)
            os.utime(found.fileno())
            found.seek(0)
            return found
        found.close()
        return None

    def _claim(self, file: StoredFile, urgency: float) -> tuple[BinaryIO, bool] | None:
        """Return the part of a file and whether it is this process that fills it; None if the whole file is here.

        Raises:
            NoRoom: there is none, and what is less urgent than so much can't be removed.
        """
        path = self._part(file)
        with self._alone():
            if self.has(file):
                return None
            if not path.exists():
                self._make_room(file, urgency)
            part = _opened(path, os.O_RDWR | os.O_CREAT)
            return part, _locked_alone(part)

    def _fill(self, part: BinaryIO, file: StoredFile, location: str, needed: bool) -> None:
        """Download what is missing of a part and give it its name; it stays locked, with others from then on.

        Args:
            needed: those who wait need not try again if this fails.

        Raises:
            BadFile: the file can't be had; the part is gone.
        """
        try:
            self._download(part, file, location)
        except BadFile as error:
            with self._alone():
                self._part(file).unlink()
            # Whoever waits for the lock has this file open, and reads in it what became of it.
            part.truncate(0)
            part.seek(0)
            part.write(GIVEN_UP + str(error).encode() if needed else b"")
            raise
        with self._alone():
            os.replace(self._part(file), self._path(file))
            fcntl.flock(part, fcntl.LOCK_SH)
        self._verified.add((file.xxh3_128, os.fstat(part.fileno()).st_ino))

    def _download(self, part: BinaryIO, file: StoredFile, location: str) -> None:
        until = time.monotonic() + GRACE_SECONDS + file.bytes / LEAST_BYTES_PER_SECOND
        problem = ""
        for _ in range(TRIES):
            begun = os.fstat(part.fileno()).st_size > 0
            try:
                problem = _receive(part, file, location, until)
            except GivenUp as error:
                raise BadFile(file.name, str(error)) from None
            except UserError as error:
                # What was begun earlier may go on where the file, as it is now, doesn't.
                problem = str(error)
                if not begun:
                    break
            except Failure as error:
                problem = str(error)
            if not problem:
                return
            part.truncate(0)
        raise BadFile(file.name, problem)

    def _make_room(self, file: StoredFile, urgency: float) -> None:
        if file.bytes > self.limit:
            raise UserError(
                f"{file.name} has {file.bytes:,} bytes, and data.cache.gigabytes allows {self.limit:,}: raise it"
            )
        entries = sorted(self._entries(), key=lambda entry: (self._urgency.get(entry.hash, 0), entry.used))
        free = self.limit - sum(entry.bytes for entry in entries)
        for entry in entries:
            if free >= file.bytes or self._urgency.get(entry.hash, 0) >= urgency:
                break
            if _removed(entry.path):
                free += entry.bytes
        if free < file.bytes:
            raise NoRoom(
                f"{self.folder}: no room for {file.name} ({file.bytes:,} bytes): of the {self.limit:,} bytes that "
                f"data.cache.gigabytes allows, {self.limit - free:,} are in use by running processes: raise it"
            )

    def _entries(self) -> Iterator[_Entry]:
        """Yield the files that are ours: plain ones, by their names."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if (match := OUR_NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield _Entry(entry.path, match[1], int(match[2] or status.st_size), status.st_mtime)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process or thread change what is in the folder."""
        with _opened(self.folder / "lock", os.O_RDWR | os.O_CREAT) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _waiting(self) -> BinaryIO:
        return _opened(self.folder / "waiting", os.O_RDWR | os.O_CREAT)

    @contextmanager
    def _disk_errors_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failure(
                f"{self.folder} fails: {error.strerror or error}. Make room on its disk, or choose another by "
                "data.cache.folder"
            ) from None

    def _path(self, file: StoredFile) -> Path:
        return self.folder / file.xxh3_128

    def _part(self, file: StoredFile) -> Path:
        return self.folder / f"{file.xxh3_128}.{file.bytes}.part"


def _receive(part: BinaryIO, file: StoredFile, location: str, until: float) -> str:
    """Append to a part what it lacks of a file; return what is wrong with it then.

    Raises:
        GivenUp: the server can't be reached, or it is too slow.
        UserError, Failure: the file is missing, forbidden, or has changed.
    """
    digest = _hash_of(part)
    size = part.tell()
    if size < file.bytes:
        with cast(io.BufferedReader, open_location(location, size, ATTEMPTS)) as source:
            # As much as has come: whoever waits for more never sees that it comes too slowly.
            while size <= file.bytes and (chunk := source.read1(CHUNK_BYTES)):
                _append(part, chunk[: file.bytes - size])
                digest.update(chunk)
                size += len(chunk)
                if time.monotonic() > until:
                    raise GivenUp(f"{shown(location)} can't be read: the server is too slow ({size:,} bytes so far)")
    if size != file.bytes:
        count = "more" if size > file.bytes else f"{size:,}"
        return f"{shown(location)} has {count} bytes instead of {file.bytes:,}"
    if digest.hexdigest() != file.xxh3_128:
        return f"{shown(location)} is damaged, or of another dataset: its checksum is not the manifest's"
    return ""


def _append(file: BinaryIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(None, "no space is left")


def _wait_for_the_other(part: BinaryIO, file: StoredFile) -> None:
    """Wait until another process or thread is done with a part. Raises BadFile: it has given up."""
    fcntl.flock(part, fcntl.LOCK_SH)
    if os.fstat(part.fileno()).st_nlink == 0:
        content = part.read(1 << 16)
        if content.startswith(GIVEN_UP):
            raise BadFile(file.name, content.removeprefix(GIVEN_UP).decode())


def _opened(path: Path | str, flags: int) -> BinaryIO:
    """Open a file, unbuffered, but not what a link leads to."""
    mode = "r+b" if flags & os.O_RDWR else "rb"
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    return cast(BinaryIO, open(path, mode, buffering=0, opener=lambda *_: descriptor))


def _locked_alone(file: BinaryIO) -> bool:
    """Lock a file if nobody has locked it; return whether that was so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: str) -> bool:
    """Remove a file if nobody has locked it; return whether that was so."""
    with _opened(path, os.O_RDONLY) as file:
        if unused := _locked_alone(file):
            os.unlink(path)
        return unused


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Tell whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _hash_of(file: BinaryIO) -> xxhash.xxh3_128:
    """Return the hash of a file's content so far, and leave the file at its end."""
    file.seek(0)
    return digest_of(file)
