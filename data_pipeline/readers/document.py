"""A document: the unit that is read, split, tokenized and never cut."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        text: not empty; encodable as UTF-8.
        source: what it is counted under in the manifest.
        key: where exactly it came from, for messages.
    """

    text: str
    source: str
    key: str


@dataclass(frozen=True)
class InputFile:
    """A file that a corpus reads, and the source under which its documents are counted."""

    path: Path
    source: str
