"""One file as the readers of the formats see it: how to open it, what in it is text, what is said about the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from data_pipeline.foundation.errors import printable
from data_pipeline.foundation.locations import file_name, open_location
from data_pipeline.readers.document import Document, Piece, Unreadable
from data_pipeline.readers.streams import compression_of, decompressed

Item = Document | Unreadable
EMPTY, IGNORED = "empty", "not_text"
HARMLESS = (EMPTY, IGNORED)
"""Reasons to leave something out that are no mistake, and stop nothing."""
RECORD_OVER_TEXT = 2
SMALLEST_RECORD = 1 << 20
LISTED_NAMES = 20
LONGEST_MESSAGE = 500
BINARY_NULS = 0.01
"""Texts taken out of old documents have a NUL here and there; UTF-16 without a byte order mark has one in two bytes."""


class Damaged(Exception):
    """The rest of the file can't be read."""


class Unfit(Exception):
    """One text can't be taken; reading goes on behind it.

    Args:
        reason: a word to count it under.
        message: for a person.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass
class ReadingConfig:
    """How files are read.

    Args:
        paths: files, URLs (http, https, s3, gs) and glob patterns (`**` goes through folders), read in this order, each
            pattern's files sorted; or folders that Hugging Face `datasets` saved.
        format: one of `formats.FORMATS`; by each file's suffix if None.
        text_field: key or column of the text, with dots for one within another.
        markup: what text fields, .csv and .tsv hold: `text` or `html`.
        separator: text that divides .txt and .md files into documents; a file is one document without. `\\n` is a
            line end.
        skip_invalid: leave out what can't be read as text, and count it, instead of stopping.
        largest_document: in UTF-8 bytes. A line or record may have twice as many, or a megabyte if that is more.
            Nothing larger comes into memory, and more than a few times that without an end is given up.
    """

    paths: list[str] = field(default_factory=list)
    format: str | None = None
    text_field: str = "text"
    markup: str = "text"
    separator: str | None = None
    skip_invalid: bool = False
    largest_document: int = 1 << 26


@dataclass(frozen=True)
class Input:
    """A file, a piece of one, or a member of an archive.

    Args:
        piece: which part of which file.
        name: of the file or member, for messages.
        key: of the settings in the configuration, for messages.
        source: under which its documents are counted.
        settings: how it is read.
        of_record: makes a document of a JSON record: of `(this, where, record, checked)`, the last one of whether its
            strings are known to be free of lone surrogates.
        content: of a member; the file is opened if None.
    """

    piece: Piece
    name: str
    key: str
    source: str
    settings: ReadingConfig
    of_record: Callable[[Input, str, Any, bool], Item]
    content: BinaryIO | None = None

    @property
    def largest_record(self) -> int:
        """The most that a line or record may take as stored, around its text and with its escapes."""
        return max(SMALLEST_RECORD, RECORD_OVER_TEXT * self.settings.largest_document)

    def open(self, start: int = 0) -> BinaryIO:
        """Return the content, decompressed. Raises UserError or Failure: it can't be opened."""
        if self.content is not None:
            return self.content
        file = open_location(self.piece.location, start)
        return decompressed(file, compression_of(file_name(self.piece.location)))

    def member(self, name: str, content: BinaryIO) -> Input:
        return replace(self, name=f"{self.name}, member {printable(name)}", content=content)

    def text(self, where: str, text: str, markup: str = "text") -> Item:
        """Return a document, or why this text is none. `where` in the file: `:LINE`, `, row N`, or nothing."""
        if not text or text.isspace():
            return self.left_out(where, EMPTY, "there is no text in it")
        if "\0" in text and text.count("\0") > BINARY_NULS * len(text):
            return self.left_out(where, "invalid_text", "it is full of NULs, as no text is: binary, or UTF-16 unmarked")
        limit = self.settings.largest_document
        if len(text) * 4 > limit and len(text.encode()) > limit:
            return self.too_long(where)
        return Document(text, self.source, self.name + where, markup)

    def encoded(self, where: str, content: bytes, markup: str = "text") -> Item:
        """Return the document of UTF-8 bytes, or why they are none."""
        if len(content) > self.settings.largest_document:
            return self.too_long(where)
        try:
            return self.text(where, plain(content), markup)
        except Unfit as unfit:
            return self.unfit(where, unfit)

    def unfit(self, where: str, unfit: Unfit) -> Unreadable:
        return self.left_out(where, unfit.reason, str(unfit))

    def too_long(self, where: str) -> Unreadable:
        limit = self.settings.largest_document
        return self.left_out(where, "too_long", f"the text is longer than {self.key}.largest_document={limit:,} bytes")

    def left_out(self, where: str, reason: str, message: str) -> Unreadable:
        # What libraries say may have line ends, or names out of the file.
        return Unreadable(reason, self.name + where, printable(" ".join(message.split())[:LONGEST_MESSAGE]))

    def names_of(self, names: list[str]) -> str:
        """Return which fields or columns there are, and how to choose another."""
        listed = ", ".join(printable(name) for name in names[:LISTED_NAMES]) or "none"
        more = " …" if len(names) > LISTED_NAMES else ""
        return f"{listed}{more}; name the one with the text by {self.key}.text_field=NAME"


def plain(content: bytes) -> str:
    """Return UTF-8 bytes as text. Raises Unfit: they aren't."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unfit("invalid_text", f"invalid UTF-8 (byte 0x{content[error.start]:02x}: {error.reason})") from None
