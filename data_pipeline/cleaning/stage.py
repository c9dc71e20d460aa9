"""A stage of cleaning: takes documents, gives each back, changed or as it was, or drops it and says why."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


class Stage(ABC):
    """A function of each document alone: nothing is remembered from one to the next, so any process may do any part."""

    @abstractmethod
    def apply_all(self, documents: Sequence[Document]) -> list[Kept | Dropped]:
        """Return what becomes of each document."""


class SingleStage(Stage):
    """A stage that gains nothing from seeing many documents at a time."""

    @abstractmethod
    def apply(self, document: Document) -> Kept | Dropped:
        """Return what becomes of a document."""

    def apply_all(self, documents: Sequence[Document]) -> list[Kept | Dropped]:
        return [self.apply(document) for document in documents]
