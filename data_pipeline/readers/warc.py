""".warc: web pages as crawlers store them, and .wet, text taken out of them, as Common Crawl does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from data_pipeline.readers.html import page
from data_pipeline.readers.input import IGNORED, Damaged, Input, Item

HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: Input) -> Iterator[Item]:
    """Yield the pages and plain texts of a file's response and conversion records."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.unknown
    with file.open() as raw:
        number = 0
        try:
            for record in ArchiveIterator(raw, record_types=kinds, parse_http=False, stream_detect=False):
                number += 1
                where = f", record {number}"
                size = record.headers.get("Content-Length", "")
                if not size.isdecimal() or int(size) != record.content_length:
                    raise Damaged(f"record {number} has no length, or no end")
                if record.record_type == WarcRecordType.unknown:
                    continue
                if record.content_length > file.largest_record:
                    yield file.too_long(where)
                    continue
                block = record.reader.read()
                if len(block) != record.content_length:
                    raise Damaged(f"record {number} is cut short")
                if record.record_type == WarcRecordType.conversion:
                    yield file.encoded(where, block)
                else:
                    yield _response(file, where, block)
        except OSError as error:
            raise Damaged(f"not a WARC file that can be read, behind record {number}: {error}") from None


def _response(file: Input, where: str, block: bytes) -> Item:
    answer, body = _decoded(block, file.settings.largest_document + 1)
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
