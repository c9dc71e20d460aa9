""".jsonl: a record a line. Big plain files are read in pieces: a line belongs to the piece in which it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from data_pipeline.readers.input import Damaged, Input, Item, Unfit
from data_pipeline.readers.json_text import parse
from data_pipeline.readers.streams import as_utf8, skip_line, wide_encoding

BLANK_LINES = 1 << 18
"""Behind one another: more are no text but a decompression bomb."""


def read_json_lines(file: Input) -> Iterator[Item]:
    piece = file.piece
    if piece.stop is None:
        with file.open() as raw:
            yield from _lines(file, as_utf8(raw), 0, None)
        return
    with file.open() as raw:
        if wide_encoding(raw.read(4)):
            # In UTF-16 the line ends have to be looked for from the start: the first piece does all.
            if piece.start == 0:
                raw.seek(0)
                yield from _lines(file, as_utf8(raw), 0, None)
            return
    with file.open(max(0, piece.start - 1)) as raw:
        if piece.start == 0:
            content = as_utf8(raw)
            position, mark = 0, content.tell()
        else:
            # The line that goes on from the piece before ends with the byte before this one, or later.
            content = raw
            skipped = skip_line(content, file.largest_record)
            if skipped is None:
                return  # without an end in sight, which the piece says in which it starts
            position, mark = piece.start - 1 + skipped, 0
        yield from _lines(file, content, position, piece.stop, mark)


def _lines(file: Input, content: BinaryIO, position: int, stop: int | None, mark: int = 0) -> Iterator[Item]:
    """Yield the documents of the lines that start before `stop`; `mark` bytes before the first have been read."""
    longest = file.largest_record
    number = blank = 0
    while (stop is None or position < stop) and (line := content.readline(longest + 1)):
        number += 1
        where = f":{number}" if stop is None else f", byte {position}"
        position += len(line) + mark
        mark = 0
        if len(line) > longest:
            yield file.too_long(where)
            if not line.endswith(b"\n"):
                skipped = skip_line(content, longest)
                if skipped is None:
                    raise Damaged(f"the line at {where[1:]} has no end in sight")
                position += skipped
        elif line.isspace():
            blank += 1
            if blank > BLANK_LINES:
                raise Damaged(f"there are more than {BLANK_LINES:,} empty lines up to {where[1:]}")
        else:
            blank = 0
            try:
                value, checked = parse(line)
            except Unfit as unfit:
                yield file.unfit(where, unfit)
            else:
                yield file.of_record(file, where, value, checked)
