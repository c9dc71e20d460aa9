"""The first phase: units of the corpus to parts of documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.preparation.corpus import MEGABYTE, Corpus
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.parts import Written, write_part
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.preparation.report import Report
from data_pipeline.preparation.workplace import Workplace
from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document, Unit

PHASE, STAGE = "read", "reading"
SMALLEST_PART, LARGEST_PART = 1 << 24, 1 << 27
PARTS = 1024
"""Parts of a corpus that is neither small nor very large, about."""


@dataclass(frozen=True)
class NumberedUnit:
    number: int
    unit: Unit


def read_corpus(place: Workplace, settings: Any, units: Sequence[Unit], engine: Engine) -> Corpus:
    """Read all units of a corpus into parts."""
    if place.is_done(PHASE):
        return Corpus.from_json(place.result(PHASE), place.root / "documents")
    stored = sum(unit.bytes for unit in units)
    part_bytes = min(max(stored // PARTS, SMALLEST_PART), LARGEST_PART)
    task = ReadUnit(settings, place.folder("documents"), part_bytes)
    numbered = [NumberedUnit(number, unit) for number, unit in enumerate(units)]
    engine.run("reading", task, numbered, [unit.bytes // MEGABYTE + 1 for unit in units])
    corpus = Corpus(task.folder, [], Report())
    for unit in numbered:
        record = read_record(task.record(unit))
        corpus.report.add(Report.from_json(record["report"]))
        for part in record["parts"]:
            corpus.append(part["name"], unit.unit.source, Written(**part["written"]))
    place.finish(PHASE, corpus.to_json())
    return corpus


@dataclass(frozen=True)
class ReadUnit:
    """Reads one unit.

    Args:
        settings: of the corpus.
        folder: where the parts go.
        part_bytes: of text in a part, about.
    """

    settings: Any
    folder: Path
    part_bytes: int

    def record(self, item: NumberedUnit) -> Path:
        return self.folder / f"{item.number:05d}.json"

    def __call__(self, item: NumberedUnit) -> None:
        if has_record(self.record(item)):
            return
        report = Report()
        parts: list[dict[str, Any]] = []
        counts = report.counts(STAGE, item.unit.source)
        for documents in _chunks(self._documents(item.unit, report), self.part_bytes):
            name = f"{item.number:05d}-{len(parts):05d}"
            written = write_part(self.folder / f"{name}.arrow", documents)
            parts.append({"name": name, "written": asdict(written)})
            counts.taken.add(written.documents, written.bytes)
            counts.given.add(written.documents, written.bytes)
        write_record(self.record(item), {"parts": parts, "report": report.to_json()})

    def _documents(self, unit: Unit, report: Report) -> Iterator[Document]:
        """Yield a unit's documents, and count what can't be read."""
        for item in open_corpus(self.settings).read(unit):
            if isinstance(item, Document):
                yield item
            else:
                report.counts(STAGE, unit.source).taken.add(1, 0)
                report.dropped(STAGE, unit.source, item.reason, 0)
                if report.wants_example(f"{STAGE}/{item.reason}", item.key):
                    report.add_example(f"{STAGE}/{item.reason}", item.key, item.message, None)


def _chunks(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    filled = 0
    for document in documents:
        chunk.append(document)
        filled += len(document.text)
        if filled >= size:
            yield chunk
            chunk, filled = [], 0
    if chunk:
        yield chunk
