"""What a dataset consists of: languages and lengths, per source. Parts add up."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipeline.manifest import SPLITS


@dataclass
class TextCounts:
    """Documents, the UTF-8 bytes of their text, and their tokens."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0

    def add(self, documents: int, bytes: int, tokens: int) -> None:
        self.documents += documents
        self.bytes += bytes
        self.tokens += tokens


@dataclass
class Composition:
    """Of one source, or of several.

    Args:
        splits: counts by split.
        languages: counts by language; the empty one where it wasn't identified.
        lengths: documents by the power of two that their bytes reach.
    """

    splits: dict[str, TextCounts] = field(default_factory=lambda: {split: TextCounts() for split in SPLITS})
    languages: dict[str, TextCounts] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def count(self, split: str, language: str | None, bytes: int, tokens: int) -> None:
        """Count one document."""
        self.splits.setdefault(split, TextCounts()).add(1, bytes, tokens)
        self.languages.setdefault(language or "", TextCounts()).add(1, bytes, tokens)
        power = max(bytes, 1).bit_length() - 1
        self.lengths[power] = self.lengths.get(power, 0) + 1

    def total(self) -> TextCounts:
        whole = TextCounts()
        for counts in self.splits.values():
            whole.add(**asdict(counts))
        return whole

    def add(self, other: Composition) -> None:
        for mine, theirs in ((self.splits, other.splits), (self.languages, other.languages)):
            for name, counts in theirs.items():
                mine.setdefault(name, TextCounts()).add(**asdict(counts))
        for power, documents in other.lengths.items():
            self.lengths[power] = self.lengths.get(power, 0) + documents

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Composition:
        splits, languages = (
            {name: TextCounts(**counts) for name, counts in data[field].items()} for field in ("splits", "languages")
        )
        return cls(splits, languages, {int(power): documents for power, documents in data["lengths"].items()})
