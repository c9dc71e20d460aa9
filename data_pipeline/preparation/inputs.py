"""What a corpus's files are: by a cheap stamp while a preparation goes on, by their content in the manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash
from data_pipeline.foundation.locations import identity, shown, split_scheme
from data_pipeline.preparation.corpus import MEGABYTE
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.readers.document import Unit


def stamp(units: Sequence[Unit]) -> str:
    """Return a hash that changes when a file is changed in the usual ways, from names, sizes and times alone."""
    stamps = {piece.location: _stamp(piece.location) for unit in units for piece in unit.pieces}
    return json_hash(
        [[unit.source, *([piece.start, piece.stop, stamps[piece.location]] for piece in unit.pieces)] for unit in units]
    )


def content_hash(units: Sequence[Unit], folder: Path, engine: Engine) -> str:
    """Return a hash of the content of all files, whatever their names, places and times.

    Args:
        folder: for the hashes of single files.
    """
    # A big file is in several units; its size is counted with each.
    sizes: dict[str, int] = {}
    for unit in units:
        for piece in unit.pieces:
            sizes[piece.location] = sizes.get(piece.location, 0) + unit.bytes // len(unit.pieces)
    task, files = IdentifyFile(folder), list(enumerate(sizes))
    engine.run("hashing the corpus", task, files, [size // MEGABYTE + 1 for size in sizes.values()])
    identities = {location: read_record(task.record(number)) for number, location in files}
    return json_hash([[unit.source, *(identities[piece.location] for piece in unit.pieces)] for unit in units])


@dataclass(frozen=True)
class IdentifyFile:
    """Notes the identity of a numbered file."""

    folder: Path

    def record(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def __call__(self, item: tuple[int, str]) -> None:
        number, location = item
        if not has_record(self.record(number)):
            write_record(self.record(number), identity(location))


def _stamp(location: str) -> list[str | int]:
    scheme, path = split_scheme(location)
    if scheme != "file":
        return [location, identity(location)]
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{shown(location)} can't be read: {error.strerror}") from None
    return [location, status.st_size, status.st_mtime_ns]
