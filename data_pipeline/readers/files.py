"""The `files` corpus: the user's files in many formats, from anywhere, streamed in bounded memory in a fixed order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import Found, find, shown, split_scheme
from data_pipeline.readers.document import Document, Piece, Unit, Unreadable
from data_pipeline.readers.formats import FORMATS, check_format, format_of
from data_pipeline.readers.input import HARMLESS, Damaged, Input, Item, ReadingConfig
from data_pipeline.readers.json_text import record
from data_pipeline.readers.parquet import row_group_shares
from data_pipeline.readers.streams import compression_of

PIECE_BYTES = 1 << 28
"""About so much of a big file is read by one process at a time."""
GROUP_BYTES = 1 << 26
GROUP_FILES = 4096
"""Small files are read together, up to so many bytes and files."""
MARKUPS = ("text", "html")


@dataclass
class FilesConfig(ReadingConfig):
    """Settings of the `files` corpus.

    Args:
        source: name under which the documents are counted, and mixed with those of other sources.
    """

    source: str = "text"


class Files:
    """Documents from one source of files.

    Args:
        config: how they are read.
        source: under which they are counted.
        key: of the settings in the configuration, for messages.
        of_record: makes documents of JSON records; see `Input`.
    """

    def __init__(
        self,
        config: ReadingConfig,
        source: str,
        key: str = "corpus",
        of_record: Callable[[Input, str, Any, bool], Item] = record,
    ):
        self._config, self._source, self._key, self._of_record = config, source, key, of_record

    def units(self) -> list[Unit]:
        """Find the files; divide the big ones, and group the small.

        Raises:
            UserError: no paths, a path without files, a file of an unknown kind, or an impossible setting.
            Failure: a server can't be reached.
        """
        config = self._config
        check_format(config.format, self._key)
        if config.markup not in MARKUPS:
            raise UserError(f"{self._key}.markup={config.markup}: there are {' and '.join(MARKUPS)}")
        if config.largest_document < 1:
            raise UserError(f"{self._key}.largest_document={config.largest_document} must be at least 1")
        return list(_grouped(self._source, [part for found in self._find() for part in self._divided(found)]))

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield a unit's documents, and what was left out.

        Raises:
            UserError: something can't be read; the message names the file, and the line where there are lines.
            Failure: a server can't be reached, or a file on it has changed while it was read.
        """
        for piece in unit.pieces:
            for item in self._items(piece):
                if isinstance(item, Unreadable) and item.reason not in HARMLESS and not self._config.skip_invalid:
                    mend = f"mend it, or leave such texts out with {self._key}.skip_invalid=true"
                    raise UserError(f"{item.key}: {item.message}; {mend}")
                yield item

    def weights(self) -> dict[str, float]:
        """Return nothing: one source has no share to take."""
        return {}

    def _items(self, piece: Piece) -> Iterator[Document | Unreadable]:
        file = Input(piece, shown(piece.location), self._key, self._source, self._config, self._of_record)
        try:
            yield from FORMATS[format_of(piece.location, self._config.format, self._key)].read(file)
        except Damaged as error:
            yield file.left_out("", "damaged", str(error))
        except UnicodeDecodeError as error:
            yield file.left_out("", "invalid_text", f"invalid {error.encoding}: {error.reason}")
        except OSError as error:
            yield file.left_out("", "damaged", f"can't be read: {error.strerror or error}")
        except UserError as error:
            # What is there and may not be read can be left out; what is missing can't.
            scheme, path = split_scheme(piece.location)
            if scheme != "file" or not os.path.exists(path):
                raise
            yield file.left_out("", "forbidden", str(error).removeprefix(f"{file.name} "))

    def _find(self) -> list[Found]:
        paths = self._config.paths
        if not paths:
            raise UserError(
                f"{self._key}.paths is empty: give the files to read, such as {self._key}.paths=['texts/*.jsonl.gz']"
            )
        found: dict[str, Found] = {}
        for pattern in paths:
            matches = [match for part in _saved_dataset(pattern) or [pattern] for match in find(part)]
            if not matches:
                hint = f"; for a folder's files write '{shown(pattern)}/**/*.txt'" if os.path.isdir(pattern) else ""
                raise UserError(f"{self._key}.paths: no file matches {shown(pattern)}{hint}")
            for match in matches:
                found.setdefault(match.location, match)
        for location in found:
            format_of(location, self._config.format, self._key)
        return list(found.values())

    def _divided(self, found: Found) -> list[tuple[Piece, int]]:
        """Return a file's pieces with their sizes."""
        whole = [(Piece(found.location), found.bytes)]
        if found.bytes <= PIECE_BYTES or split_scheme(found.location)[0] in ("http", "https"):
            # An http server may only be able to send a file from its start.
            return whole
        match format_of(found.location, self._config.format, self._key):
            case "jsonl" if compression_of(found.location) is None:
                stops = [*range(PIECE_BYTES, found.bytes - PIECE_BYTES // 2, PIECE_BYTES), found.bytes]
                return [(Piece(found.location, start, stop), stop - start) for start, stop in zip([0, *stops], stops)]
            case "parquet":
                return _row_groups(found) or whole
        return whole


def _row_groups(found: Found) -> list[tuple[Piece, int]]:
    pieces = []
    start = size = 0
    shares = row_group_shares(found.location)
    for group, share in enumerate(shares, 1):
        size += round(share * found.bytes)
        if size >= PIECE_BYTES or group == len(shares):
            pieces.append((Piece(found.location, start, group), size))
            start, size = group, 0
    return pieces


def _grouped(source: str, pieces: list[tuple[Piece, int]]) -> Iterator[Unit]:
    group: list[Piece] = []
    size = 0
    for piece, piece_size in pieces:
        if group and (size + piece_size > GROUP_BYTES or len(group) == GROUP_FILES):
            yield Unit(source, tuple(group), size)
            group, size = [], 0
        group.append(piece)
        size += piece_size
    if group:
        yield Unit(source, tuple(group), size)


def _saved_dataset(folder: str) -> list[str]:
    """Return the files of a folder that Hugging Face `datasets` saved, in order; nothing for any other folder.

    Raises UserError: it holds several splits.
    """
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        splits = ", ".join(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        raise UserError(f"{shown(folder)} holds several splits: name the folder of one; there are {splits}")
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            names = [entry["filename"] for entry in json.load(file)["_data_files"]]
        return [os.path.join(folder, os.path.basename(name)) for name in names]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
