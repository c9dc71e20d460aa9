""".warc: web pages as crawlers store them, and .wet, text taken out of them, as Common Crawl does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_pipeline.readers.html import page
from data_pipeline.readers.input import IGNORED, Damaged, Input, Item

BETWEEN_RECORDS = 1 << 22
"""So many bytes at most may lie between a record's content and the next record's, headers and buffers included."""
HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: Input) -> Iterator[Item]:
    """Yield the pages and plain texts of a file's response and conversion records."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    number = 0
    with file.open() as raw:
        stream: Any = _Bounded(raw)
        records = ArchiveIterator(stream, WarcRecordType.any_type, parse_http=False, stream_detect=False)
        try:
            for number, record in enumerate(records, 1):
                size = record.headers.get("Content-Length") or ""
                if not size.isdecimal() or int(size) != record.content_length:
                    raise Damaged(f"record {number} has no length, or no end")
                stream.allow(record.content_length)
                if record.record_type in (WarcRecordType.response, WarcRecordType.conversion):
                    yield _page(file, number, record, record.record_type == WarcRecordType.conversion)
        except OSError as error:
            raise Damaged(f"not a WARC file that can be read, behind record {number}: {error}") from None


def _page(file: Input, number: int, record: Any, converted: bool) -> Item:
    where = f", record {number}"
    if record.content_length > file.largest_record:
        return file.too_long(where)
    block = record.reader.read()
    if len(block) != record.content_length:
        raise Damaged(f"record {number} is cut short")
    if converted:
        return file.encoded(where, block)
    try:
        answer, body = _decoded(block, file.settings.largest_document + 1)
    except OSError as error:
        return file.left_out(where, "damaged", f"not an HTTP answer that can be read: {error}")
    status = answer.http_headers.status_code if answer.http_headers is not None else None
    kind = answer.http_content_type
    if status != 200 or kind not in (*HTML, "text/plain"):
        return file.left_out(where, IGNORED, f"an answer with status {status} and type {kind}")
    if kind in HTML:
        return page(file, where, body, answer.http_charset)
    return page(file, where, body, answer.http_charset or "utf-8", "text")


def _decoded(block: bytes, limit: int) -> tuple[Any, bytes]:
    """Return an HTTP answer and up to `limit` bytes of its body, without the codings it was sent in."""
    from fastwarc.warc import ArchiveIterator

    # A record of its own, so that a body whose coding is damaged doesn't cost the records behind it.
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    content = head + b"Content-Length: %d\r\n\r\n" % len(block) + block
    try:
        answer = next(ArchiveIterator(io.BytesIO(content), auto_decode="all", stream_detect=False))
        return answer, answer.reader.read(limit)
    except OSError:
        # Some crawlers store the body decoded, and the headers as they came.
        answer = next(ArchiveIterator(io.BytesIO(content), stream_detect=False))
        return answer, answer.reader.read(limit)


class _Bounded:
    """A stream as FastWARC takes it, which asks where it is; ended where no record is in sight for too long."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._at, self._until = raw, 0, BETWEEN_RECORDS

    def allow(self, size: int) -> None:
        self._until = self._at + size + BETWEEN_RECORDS

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._at += len(data)
        if self._at > self._until:
            raise OSError("there is no record in sight")
        return data

    def tell(self) -> int:
        return self._at
