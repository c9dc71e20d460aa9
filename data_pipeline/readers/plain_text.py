""".txt and .md: a file is one document, or several with a separator between them."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.readers.input import Input, Item
from data_pipeline.readers.streams import as_utf8, read_at_most, split


def read_plain_text(file: Input) -> Iterator[Item]:
    limit = file.settings.largest_document
    separator = (file.settings.separator or "").replace("\\n", "\n").encode()
    with file.open() as raw:
        content = as_utf8(raw)
        if not separator:
            yield file.encoded("", read_at_most(content, limit))
            return
        for number, text in enumerate(split(content, separator, limit), 1):
            where = f", text {number}"
            yield file.too_long(where) if text is None else file.encoded(where, text)
