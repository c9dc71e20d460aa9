"""A folder or file that is written beside its place, proven there, and only then renamed into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import fresh_folder, publish_folder, sync_folder


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `output` when the block ends well; else nothing is left of it.

    Raises:
        UserError: `output` exists.
        Failure: it can't be written.
    """
    with _beside(output) as staged:
        try:
            yield fresh_folder(staged)
            publish_folder(staged, output)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def staged_file(output: Path) -> Iterator[Path]:
    """Give a path to write a file at, which becomes `output` when the block ends well; else nothing is left of it.

    Raises:
        UserError: `output` exists.
        Failure: it can't be written.
    """
    with _beside(output) as staged:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            yield staged
            os.rename(staged, output)
            sync_folder(output.parent)
        finally:
            staged.unlink(missing_ok=True)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Give the path at which `output` is written, and say what goes wrong with it. Raises UserError, Failure."""
    require_absent(output)
    try:
        yield output.with_name(f".{output.name}.tmp")
    except OSError as error:
        raise Failure(f"{output} can't be written: {error.strerror or error}") from None


def require_absent(output: Path) -> None:
    """Raise UserError where something is already."""
    if output.exists() or output.is_symlink():
        raise UserError(f"output={output} exists already: move it away or choose another")


def require_room(folder: Path, size: int) -> None:
    """Raise Failure where a file system has less room than `size` bytes."""
    while not folder.exists():
        folder = folder.parent
    if (free := shutil.disk_usage(folder).free) < size:
        raise Failure(f"it needs {size:,} bytes, and {free:,} are free on the file system of {folder}")
