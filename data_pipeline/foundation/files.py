"""Files that are either whole or absent: written beside, hashed, flushed to disk, then renamed into place."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import xxhash

READ_BYTES = 1 << 20


def file_hash(path: Path) -> str:
    """Return the xxh3-128 of a file's bytes as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return digest_of(file).hexdigest()


def digest_of(file: BinaryIO) -> xxhash.xxh3_128:
    """Return the xxh3-128 of what is left to read in a file, ready to take more."""
    digest = xxhash.xxh3_128()
    # One buffer for all of it: to ask the system for new memory every time takes as long as reading and hashing do.
    buffer = memoryview(bytearray(READ_BYTES))
    while count := cast(io.BufferedReader, file).readinto(buffer):
        digest.update(buffer[:count])
    return digest


def text_hash(text: str) -> str:
    """Return the xxh3-128 of a text's UTF-8 bytes as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def json_hash(value: Any) -> str:
    """Return a hash of a JSON value that doesn't depend on the order of its keys."""
    return text_hash(json.dumps(value, sort_keys=True, separators=(",", ":")))


class HashingFile:
    """A binary file for writing that hashes and counts what goes through it, so that no second read is needed."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = xxhash.xxh3_128()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        self._digest.update(data)
        self.bytes += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def hashed_file(path: Path) -> Iterator[HashingFile]:
    """Open a new file for writing; its bytes are hashed on the way and on disk when the block ends."""
    with open(path, "wb") as file:
        yield HashingFile(file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears, replacing an older one, when the block ends well; else nothing changes.

    Args:
        durable: wait until it is on disk. Without, the machine's loss may leave an empty file; a killed process not.
    """
    beside = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a rename can be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old text or the new, never a part."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    with whole_file(path) as file:
        file.write(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return what `write_json` writes."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def publish_folder(staged: Path, final: Path) -> None:
    """Rename a finished folder into place, durably.

    Raises:
        FileExistsError: `final` exists already; nothing is changed.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists already")
    sync_folder(staged)
    os.rename(staged, final)
    sync_folder(final.parent)


def fresh_folder(path: Path) -> Path:
    """Return an empty folder at `path`, removing what an interrupted earlier try left there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
