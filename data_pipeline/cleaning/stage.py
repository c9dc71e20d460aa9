"""A stage of cleaning: takes one document, gives it back, changed or as it was, or drops it and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from data_pipeline.readers.document import Document


@dataclass(frozen=True)
class Kept:
    """The document goes on.

    Args:
        document: to go on with.
        changes: how often what was changed in its text, by kind; empty where the text is as it was.
    """

    document: Document
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """The document ends here, counted under `reason`: a few words in snake_case, from a fixed set."""

    reason: str


class Stage(Protocol):
    """A function of the document alone: nothing is remembered from one to the next, so any process may do any part."""

    def apply(self, document: Document) -> Kept | Dropped: ...
