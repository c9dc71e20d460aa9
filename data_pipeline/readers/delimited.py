""".csv and .tsv: a document a row, under a header that names the columns.

CSV is quoted as in RFC 4180. TSV is not quoted at all, as its registration with IANA has it, since unpaired quotation
marks are common in it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from data_pipeline.readers.input import Damaged, Input, Item, Unfit, plain
from data_pipeline.readers.json_lines import BLANK_LINES
from data_pipeline.readers.streams import as_utf8, skip_line


def read_csv(file: Input) -> Iterator[Item]:
    return _rows(file, ",", csv.QUOTE_MINIMAL)


def read_tsv(file: Input) -> Iterator[Item]:
    return _rows(file, "\t", csv.QUOTE_NONE)


def _rows(file: Input, delimiter: str, quoting: int) -> Iterator[Item]:
    # The module has one limit for all; what is too long for this file is noticed by its lines.
    csv.field_size_limit(max(csv.field_size_limit(), file.largest_record))
    with file.open() as raw:
        lines = _Lines(as_utf8(raw), file)
        rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        header: list[str] | None = None
        column = blank = 0
        while True:
            lines.begin_row()
            try:
                row = next(rows, None)
                if row is None:
                    return
                if not row:
                    blank += 1
                    if blank > BLANK_LINES:
                        raise Damaged(f"there are more than {BLANK_LINES:,} empty lines up to {lines.where[1:]}")
                    continue
                blank = 0
                if header is None:
                    header, column = row, _column(file, row)
                    continue
                if len(row) != len(header):
                    raise Unfit("invalid_row", f"the row has {len(row)} fields, and the header {len(header)}")
            except Unfit as unfit:
                yield file.unfit(lines.where, unfit)
            except csv.Error as error:
                yield file.left_out(lines.where, "invalid_row", f"not a row: {error}")
            else:
                yield file.text(lines.where, row[column], file.settings.markup)
            if header is None:
                raise Damaged("its first row, which names the columns, can't be read")


def _column(file: Input, header: list[str]) -> int:
    name = file.settings.text_field
    if name not in header:
        raise Damaged(f"there is no column `{name}` among {file.names_of(header)}")
    return header.index(name)


class _Lines:
    """The lines of a file as text, as many as one row may have. A line that can't be had costs its row, no more."""

    def __init__(self, content: BinaryIO, file: Input):
        self._content, self._longest = content, file.largest_record
        self._readline = content.readline
        self._number = self._first = self._size = 0
        self._too_long = Unfit("too_long", f"the row is longer than {self._longest:,} bytes")

    @property
    def where(self) -> str:
        return f":{self._first}"

    def begin_row(self) -> None:
        self._first, self._size = self._number + 1, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._readline(self._longest + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._size += len(line)
        if self._size > self._longest:
            if not line.endswith(b"\n") and skip_line(self._content, self._longest) is None:
                raise Damaged(f"the line at {self._number} has no end in sight")
            raise self._too_long
        return plain(line)
