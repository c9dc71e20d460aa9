"""What the phases did to a corpus: counts per stage and source, and a few examples. Reports of parts add up to one.

Adding is commutative, so the whole report doesn't depend on who did which part, or when: of the examples of a kind
those with the smallest hashes stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash

EXAMPLES = 3
EXCERPT_CHARACTERS = 320


@dataclass
class Amount:
    """Documents and the UTF-8 bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, bytes: int) -> None:
        self.documents += documents
        self.bytes += bytes


@dataclass
class StageCounts:
    """What one stage did to one source.

    Args:
        taken, given: what went in and what came out.
        changed: documents whose text is another than before.
        changes: how often what was changed, by kind.
        dropped: what was left out, by reason.
    """

    taken: Amount = field(default_factory=Amount)
    given: Amount = field(default_factory=Amount)
    changed: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, Amount] = field(default_factory=dict)

    def add(self, other: StageCounts) -> None:
        self.taken.add(**asdict(other.taken))
        self.given.add(**asdict(other.given))
        self.changed += other.changed
        self.count_changes(other.changes)
        for reason, amount in other.dropped.items():
            self.dropped.setdefault(reason, Amount()).add(**asdict(amount))

    def count_changes(self, changes: Mapping[str, int]) -> None:
        for kind, count in changes.items():
            self.changes[kind] = self.changes.get(kind, 0) + count


@dataclass(frozen=True)
class Example:
    """A piece of a document, as it was and as it became.

    Args:
        after: None where the document was dropped.
        original: number of the document that it duplicates.
    """

    rank: int
    key: str
    before: str
    after: str | None
    original: int | None = None


@dataclass
class Report:
    """Counts by stage and source, and examples by stage and kind, as `quality/too_short`."""

    stages: dict[str, dict[str, StageCounts]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def counts(self, stage: str, source: str) -> StageCounts:
        return self.stages.setdefault(stage, {}).setdefault(source, StageCounts())

    def dropped(self, stage: str, source: str, reason: str, bytes: int) -> None:
        self.counts(stage, source).dropped.setdefault(reason, Amount()).add(1, bytes)

    def wants_example(self, kind: str, key: str) -> bool:
        """Return whether an example of a kind from this document would stay, so that others need not be made."""
        kept = self.examples.get(kind, [])
        return len(kept) < EXAMPLES or _rank(key) < kept[-1].rank

    def add_example(self, kind: str, key: str, before: str, after: str | None, original: int | None = None) -> None:
        self._keep(kind, Example(_rank(key), key, before, after, original))

    def add(self, other: Report) -> None:
        """Add another part's report to this one."""
        for stage, sources in other.stages.items():
            for source, theirs in sources.items():
                self.counts(stage, source).add(theirs)
        for kind, examples in other.examples.items():
            for example in examples:
                self._keep(kind, example)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        return cls(
            {
                stage: {source: _counts_from_json(counts) for source, counts in sources.items()}
                for stage, sources in data["stages"].items()
            },
            {kind: [Example(**example) for example in examples] for kind, examples in data["examples"].items()},
        )

    def _keep(self, kind: str, example: Example) -> None:
        kept = [*self.examples.get(kind, []), example]
        self.examples[kind] = sorted(kept, key=lambda each: (each.rank, each.key))[:EXAMPLES]


def excerpt_around(text: str, place: int) -> str:
    """Return some lines' worth of a text around a place in it."""
    start = max(0, min(place - EXCERPT_CHARACTERS // 4, len(text) - EXCERPT_CHARACTERS))
    end = start + EXCERPT_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def first_difference(before: str, after: str) -> int:
    """Return the first place at which two texts differ, by halving: comparing slices is fast, comparing letters not."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == after[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _rank(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode())


def _counts_from_json(data: dict[str, Any]) -> StageCounts:
    return StageCounts(
        taken=Amount(**data["taken"]),
        given=Amount(**data["given"]),
        changed=data["changed"],
        changes=data["changes"],
        dropped={reason: Amount(**amount) for reason, amount in data["dropped"].items()},
    )
