"""Byte streams under the formats: decompressed, as UTF-8 whatever Unicode they are in, cut at separators, in bounds."""

from __future__ import annotations

import codecs
import io
import lzma
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

READ_BYTES = 1 << 20
XZ_MEMORY = 1 << 28
"""The most that decompressing xz may take; its highest level needs a quarter."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
ENDLESS = 16
"""So many times the allowed length, and no end of a record is looked for any more: it may never come."""
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def compression_of(name: str) -> str | None:
    """Return how a file of this name is compressed."""
    return next((kind for suffix, kind in COMPRESSIONS.items() if name.lower().endswith(suffix)), None)


def decompressed(file: BinaryIO, compression: str | None) -> BinaryIO:
    """Return a stream of what a compressed stream holds, over all its members or frames.

    Raises:
        OSError: from reading: it is damaged, or cut short.
    """
    if compression is None:
        return file
    if compression == "xz":
        return io.BufferedReader(_XzFile(file), READ_BYTES)
    # Arrow's decompressors, because they notice a stream that is cut short and read on after the first gzip member or
    # zstd frame; the usual Python bindings for zstd do neither.
    import pyarrow as pa

    stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)
    return io.BufferedReader(cast(Any, stream), READ_BYTES)


def as_utf8(file: BinaryIO) -> BinaryIO:
    """Return a stream without its byte order mark, in UTF-8 also where the mark says UTF-16 or UTF-32.

    Raises UnicodeDecodeError: from reading, where that isn't so.
    """
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file), READ_BYTES)
    start = buffered.peek(4)[:4]
    if start.startswith(codecs.BOM_UTF8):
        buffered.read(len(codecs.BOM_UTF8))
    elif encoding := wide_encoding(start):
        text = io.TextIOWrapper(buffered, encoding, newline="")
        text.read(1)
        return io.BufferedReader(_Encoded(text), READ_BYTES)
    return buffered


def wide_encoding(start: bytes) -> str | None:
    """Return the encoding that a byte order mark stands for, unless it is UTF-8."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """Return what a file holds, and if that is more than `limit` bytes, one byte more than those."""
    parts = []
    left = limit + 1
    # Memory is asked for as the file turns out to need it.
    while left and (part := file.read(min(READ_BYTES, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def skip_line(file: BinaryIO, limit: int) -> int | None:
    """Read to the end of a line; return how many bytes that were, or None where no end came in sight."""
    skipped = 0
    while line := file.readline(READ_BYTES):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
        if skipped > ENDLESS * limit:
            return None
    return skipped


def split(file: BinaryIO, separator: bytes, limit: int) -> Iterator[bytes | None]:
    """Yield what is between separators; None for what is longer than `limit`, and for the rest after an endless one."""
    rest, skipped = b"", 0
    while chunk := file.read(max(READ_BYTES, len(rest))):
        *whole, rest = (rest + chunk).split(separator)
        for piece in whole:
            yield None if skipped or len(piece) > limit else piece
            skipped = 0
        if len(rest) > limit:
            skipped += len(rest)
            if skipped > ENDLESS * limit:
                break
            # A separator may have begun.
            rest = rest[len(rest) - len(separator) + 1 :]
    yield None if skipped or len(rest) > limit else rest


class _XzFile(io.RawIOBase):
    """Decompresses .xz, stream after stream, within bounds of memory: a header may ask for gigabytes."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decompressor = self._fresh()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._read(len(buffer))
        except lzma.LZMAError as error:
            raise OSError(f"xz: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:
                if not (more := self._between_streams()):
                    return b""
                self._decompressor = self._fresh()
            elif self._decompressor.needs_input:
                if not (more := self._file.read(READ_BYTES)):
                    raise OSError("Truncated compressed stream")
            else:
                more = b""
            if data := self._decompressor.decompress(more, size):
                return data

    def _between_streams(self) -> bytes:
        """Return how the next stream begins; zeros may stand before it."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest:
            if not (more := self._file.read(READ_BYTES)):
                return b""
            rest = more.lstrip(b"\0")
        return rest

    def _fresh(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_AUTO, XZ_MEMORY)


class _Encoded(io.RawIOBase):
    """A text stream as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper):
        self._text = text

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._text.read(len(buffer) // 4).encode()
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._text.close()
        super().close()
