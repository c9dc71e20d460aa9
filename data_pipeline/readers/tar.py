""".tar: WebDataset archives of texts made by others; members are streamed, nothing is unpacked or unpickled."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_pipeline.readers.document import Document, Unreadable
from data_pipeline.readers.html import read_html
from data_pipeline.readers.input import IGNORED, Damaged, Input, Item
from data_pipeline.readers.json_array import read_json_array
from data_pipeline.readers.plain_text import read_plain_text
from data_pipeline.readers.streams import READ_BYTES

MEMBERS: dict[str, Callable[[Input], Iterator[Item]]] = {
    "txt": read_plain_text,
    "md": read_plain_text,
    "html": read_html,
    "htm": read_html,
    "json": read_json_array,
}
BLOCK = tarfile.BLOCKSIZE
LARGEST_HEADER = 1 << 20
"""Of an extended header, which comes into memory whole."""


def read_tar(file: Input) -> Iterator[Item]:
    """Yield the texts of an archive, sample by sample.

    A sample's members have the same name up to the first dot. Where one of them has text, a .json without the text
    field holds the sample's properties, and is ignored as are members of other kinds.
    """
    with file.open() as raw:
        sample = ""
        without_text: list[Unreadable] = []
        has_text = False
        for member in _members(raw):
            folder, _, name = member.name.rpartition("/")
            if sample != (sample := f"{folder}/{name.partition('.')[0]}"):
                yield from _properties(without_text, has_text)
                without_text, has_text = [], False
            for item in _texts(file, member, name):
                if isinstance(item, Unreadable) and item.reason == "no_text":
                    without_text.append(item)
                else:
                    has_text |= isinstance(item, Document)
                    yield item
        yield from _properties(without_text, has_text)


def _properties(items: list[Unreadable], ignored: bool) -> Iterator[Unreadable]:
    for item in items:
        yield Unreadable(IGNORED, item.key, item.message) if ignored else item


def _texts(file: Input, member: _Member, name: str) -> Iterator[Item]:
    entry = file.member(member.name, io.BufferedReader(member.content, min(READ_BYTES, member.size + 1)))
    reader = MEMBERS.get(name.rpartition(".")[2].lower())
    if reader is None or not member.is_file or name.startswith("."):
        yield entry.left_out("", IGNORED, "a member of a kind that holds no text")
        return
    try:
        yield from reader(entry)
    except UnicodeDecodeError as error:
        yield entry.left_out("", "invalid_text", f"invalid {error.encoding}: {error.reason}")
    except Damaged as error:
        if member.content.damaged:
            raise
        yield entry.left_out("", "damaged", str(error))


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_file: bool
    content: _Part


def _members(raw: BinaryIO) -> Iterator[_Member]:
    """Yield what is in an archive, but for folders. The content has to be read before the next is asked for.

    The headers are `tarfile`'s; the way from one to the next is ours, because its way takes damage for the end of the
    archive, and lets one that is made to harm fill the memory with headers.

    Raises:
        Damaged: a header or the content is damaged, or the end is missing.
    """
    path: str | None = None
    size: int | None = None
    while (header := _header(raw)) is not None:
        extended = header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
        if extended or header.type == tarfile.GNUTYPE_LONGNAME:
            content = _Part(raw, header.size).all(LARGEST_HEADER)
            if extended:
                path, size = _pax(content, path, size)
            else:
                path = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            continue
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        length = (header.size if size is None else size) if has_content else 0
        part = _Part(raw, length)
        if not header.isdir() and header.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            yield _Member(path or header.name, length, header.type in (tarfile.REGTYPE, tarfile.AREGTYPE), part)
        part.skip_rest()
        if header.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            path = size = None


def _header(raw: BinaryIO) -> tarfile.TarInfo | None:
    """Return the next header, or None at the mark that ends an archive."""
    block = raw.read(BLOCK)
    if not block:
        raise Damaged("the archive has no end mark: it is cut short")
    if len(block) == BLOCK and not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise Damaged(f"a header of the archive is damaged: {error}") from None
    if header.size < 0:
        raise Damaged(f"a header of the archive is damaged: a size of {header.size}")
    return header


def _pax(content: bytes, path: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Return the path and size that an extended header gives to the next member; see pax(1) in POSIX."""
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(content):
            raise Damaged("an extended header of the archive is damaged")
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            path = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit():
            size = int(value)
        content = content[int(length) :]
    return path, size


class _Part(io.RawIOBase):
    """The next bytes of an archive, in whole blocks."""

    def __init__(self, raw: BinaryIO, size: int):
        self._raw, self._left, self._padding = raw, size, -size % BLOCK
        self.damaged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(min(len(buffer), self._left))
        if not data and self._left and len(buffer):
            self.damaged = True
            raise Damaged("the archive is cut short")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def all(self, limit: int) -> bytes:
        """Return the whole content, unless that is too much. Raises Damaged."""
        if self._left > limit:
            raise Damaged(f"a header of the archive claims to have {self._left:,} bytes")
        data = bytearray(self._left)
        at = 0
        while at < len(data):
            at += self.readinto(memoryview(data)[at:])
        self.skip_rest()
        return bytes(data)

    def skip_rest(self) -> None:
        self._left, self._padding = self._left + self._padding, 0
        waste = bytearray(min(READ_BYTES, self._left))
        while self._left:
            self.readinto(waste)
