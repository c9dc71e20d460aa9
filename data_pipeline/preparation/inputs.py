"""What a corpus's files are: by a cheap stamp while a preparation goes on, by their content in the manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash
from data_pipeline.foundation.locations import identity, shown, split_scheme
from data_pipeline.foundation.progress import Task
from data_pipeline.parallel import Workers
from data_pipeline.preparation.corpus import MEGABYTE
from data_pipeline.readers.document import Unit


def stamp(units: Sequence[Unit]) -> str:
    """Return a hash that changes when a file is changed in the usual ways, from names, sizes and times alone."""
    stamps = {piece.location: _stamp(piece.location) for unit in units for piece in unit.pieces}
    return json_hash(
        [[unit.source, *([piece.start, piece.stop, stamps[piece.location]] for piece in unit.pieces)] for unit in units]
    )


def content_hash(units: Sequence[Unit], workers: Workers) -> str:
    """Return a hash of the content of all files, whatever their names, places and times."""
    # A big file is in several units; its size is counted with each.
    files: dict[str, int] = {}
    for unit in units:
        for piece in unit.pieces:
            files[piece.location] = files.get(piece.location, 0) + unit.bytes // len(unit.pieces)
    with Task("hashing the corpus", sum(files.values()) // MEGABYTE + 1, "MB") as progress:
        identities = {}
        hashed = 0
        for (location, size), found in zip(files.items(), workers.map(identity, files)):
            identities[location] = found
            hashed += size
            progress.advance(hashed // MEGABYTE - progress.done)
    return json_hash([[unit.source, *(identities[piece.location] for piece in unit.pieces)] for unit in units])


def _stamp(location: str) -> list[str | int]:
    scheme, path = split_scheme(location)
    if scheme != "file":
        return [location, identity(location)]
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{shown(location)} can't be read: {error.strerror}") from None
    return [location, status.st_size, status.st_mtime_ns]
