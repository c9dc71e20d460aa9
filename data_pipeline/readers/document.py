"""A document: the unit that is read, cleaned, split, tokenized and never cut. And where documents are read from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        text: not empty; encodable as UTF-8.
        source: what it is counted under in the manifest.
        key: where exactly it came from, for messages: a file and a line, row or member in it.
        markup: `text`, or `html` where the text of a page has still to be taken out of it.
        language: ISO 639 code, where it has been identified.
        spans: of a sample: how many characters have which label (see `labels`), all of the text in order; empty for
            running text.
    """

    text: str
    source: str
    key: str
    markup: str = "text"
    language: str | None = None
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """Something in a file that is no document, and was left out because the user said that it may be.

    Args:
        reason: a word to count it under, such as `invalid_json`.
        key: where it is.
        message: what is wrong with it, for a person.
    """

    reason: str
    key: str
    message: str


@dataclass(frozen=True)
class Piece:
    """A file, or a part of one where its format can be entered in the middle.

    Args:
        location: a path or a URL.
        start, stop: the range, in the format's own steps (bytes, row groups); a file is read whole without `stop`.
    """

    location: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Unit:
    """What one process reads at a time: many small files, one file, or a part of a large one.

    Which units a corpus has depends on its files alone, never on the number of processes.

    Args:
        source: under which its documents are counted.
        bytes: of all pieces as stored, for progress.
    """

    source: str
    pieces: tuple[Piece, ...]
    bytes: int


def utf8_length(text: str) -> int:
    """Return the bytes of a text in UTF-8, without encoding what is ASCII."""
    return len(text) if text.isascii() else len(text.encode())
