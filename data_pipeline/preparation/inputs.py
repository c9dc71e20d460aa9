"""What a corpus's files are: by a cheap stamp while a preparation goes on, by their content in the manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash, json_hash
from data_pipeline.foundation.progress import Task
from data_pipeline.parallel import Workers
from data_pipeline.preparation.corpus import MEGABYTE
from data_pipeline.readers.document import Unit


def stamp(units: Sequence[Unit]) -> str:
    """Return a hash that changes when a file is changed in the usual ways, from names, sizes and times alone."""
    return json_hash([[unit.source, *(_stamp(piece.location) for piece in unit.pieces)] for unit in units])


def content_hash(units: Sequence[Unit], workers: Workers) -> str:
    """Return a hash of the content of all files, whatever their names, places and times."""
    with Task("hashing the corpus", sum(unit.bytes // MEGABYTE + 1 for unit in units), "MB") as progress:
        digests = []
        for unit, digest in zip(units, workers.map(_content, units)):
            digests.append(digest)
            progress.advance(unit.bytes // MEGABYTE + 1)
    return json_hash(digests)


def _stamp(location: str) -> list[str | int]:
    try:
        status = os.stat(location)
    except OSError as error:
        raise UserError(f"{location} can't be read: {error.strerror}") from None
    return [location, status.st_size, status.st_mtime_ns]


def _content(unit: Unit) -> list[str | int | None]:
    found: list[str | int | None] = [unit.source]
    for piece in unit.pieces:
        try:
            found += [file_hash(Path(piece.location)), piece.start, piece.stop]
        except OSError as error:
            raise UserError(f"{piece.location} can't be read: {error.strerror}") from None
    return found
