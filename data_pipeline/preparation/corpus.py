"""A corpus between two phases: its parts, and what has been done to it so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.preparation.parts import Part, Written
from data_pipeline.preparation.report import Report

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Parts in their order.

    Args:
        folder: of the parts' files.
        report: what was changed and left out so far.
    """

    folder: Path
    parts: list[Part]
    report: Report

    def append(self, name: str, source: str, written: Written) -> None:
        """Add a part behind the others."""
        first = self.parts[-1].first_document + self.parts[-1].documents if self.parts else 0
        self.parts.append(Part(name, source, first, **asdict(written)))

    def megabytes(self) -> list[int]:
        """Return the work in each part, for progress."""
        return [part.bytes // MEGABYTE + 1 for part in self.parts]

    def to_json(self) -> dict[str, Any]:
        """Return what a later process needs, which finds the folder by itself."""
        return {"parts": [asdict(part) for part in self.parts], "report": self.report.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any], folder: Path) -> Corpus:
        return cls(folder, [Part(**part) for part in data["parts"]], Report.from_json(data["report"]))
