"""Parts of documents through the stages of cleaning; what is left is signed, so that duplicates can be found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.cleaning.chain import CleaningConfig, build_chain
from data_pipeline.cleaning.privacy import mask
from data_pipeline.cleaning.stage import Dropped, Stage
from data_pipeline.deduplication.signatures import write_signatures
from data_pipeline.foundation.progress import say
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.parts import Part, Written, read_part, write_part
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.preparation.report import Report, excerpt_around, first_difference
from data_pipeline.preparation.workplace import Workplace
from data_pipeline.readers.document import Document, utf8_length

PHASE = "clean"
SIGNATURES = ".signatures"


def clean_corpus(place: Workplace, corpus: Corpus, config: CleaningConfig, engine: Engine) -> Corpus:
    """Put all parts of a corpus through the stages."""
    if place.is_done(PHASE):
        return Corpus.from_json(place.result(PHASE), place.root / "cleaned")
    if config.decontamination.enabled and not config.decontamination.sets:
        say("nothing is decontaminated: name evaluation sets by cleaning.decontamination.sets.NAME=[FILES]")
    task = CleanPart(config, corpus.folder, place.folder("cleaned"), place.folder("signatures"))
    engine.run("cleaning", task, corpus.parts, corpus.megabytes())
    cleaned = Corpus(task.cleaned, [], corpus.report)
    for part in corpus.parts:
        record = read_record(task.record(part))
        cleaned.report.add(Report.from_json(record["report"]))
        cleaned.append(part.name, part.source, Written(**record["written"]))
    place.finish(PHASE, cleaned.to_json())
    place.remove("documents")
    return cleaned


@dataclass(frozen=True)
class CleanPart:
    """Cleans one part.

    Args:
        documents: folder to read from.
        cleaned, signatures: folders to write to.
    """

    config: CleaningConfig
    documents: Path
    cleaned: Path
    signatures: Path

    def record(self, part: Part) -> Path:
        return part.file(self.cleaned, ".json")

    def __call__(self, part: Part) -> None:
        if has_record(self.record(part)):
            return
        report = Report()
        duplicates = self.config.duplicates
        wants_signatures = duplicates.exact.enabled or duplicates.near.enabled
        if wants_signatures or part.pages or any(name != "extraction" for name, _ in _chain(self.config)):
            texts: list[str] = []
            written = write_part(part.file(self.cleaned), _remembered(self._cleaned(part, report), texts))
            if wants_signatures:
                write_signatures(part.file(self.signatures, SIGNATURES), texts, duplicates)
        else:
            written = self._moved(part, report)
        write_record(self.record(part), {"written": asdict(written), "report": report.to_json()})

    def _moved(self, part: Part, report: Report) -> Written:
        """Move a part on that no stage has anything to do with."""
        cleaned = part.file(self.cleaned)
        try:
            os.replace(part.file(self.documents), cleaned)
        except FileNotFoundError:
            if not cleaned.exists():  # by a process that was killed before it could say so
                raise
        for name, _ in _chain(self.config):
            report.counts(name, part.source).taken.add(part.documents, part.bytes)
            report.counts(name, part.source).given.add(part.documents, part.bytes)
        return Written(part.documents, part.bytes, part.pages)

    def _cleaned(self, part: Part, report: Report) -> Iterator[Document]:
        chain = _chain(self.config)
        for documents in read_part(part.file(self.documents), part.source):
            for name, stage in chain:
                documents = self._through(name, stage, documents, report)
            yield from documents

    def _through(self, name: str, stage: Stage, documents: list[Document], report: Report) -> list[Document]:
        """Put documents through a stage, and count what it does. Returns those that it keeps."""
        kept = []
        for before, outcome in zip(documents, stage.apply_all(documents)):
            counts, size = report.counts(name, before.source), utf8_length(before.text)
            counts.taken.add(1, size)
            if isinstance(outcome, Dropped):
                report.dropped(name, before.source, outcome.reason, size)
                if report.wants_example(f"{name}/{outcome.reason}", before.key):
                    text = excerpt_around(self._masked(before), 0)
                    report.add_example(f"{name}/{outcome.reason}", before.key, text, None)
                continue
            after = outcome.document
            counts.given.add(1, size if after.text is before.text else utf8_length(after.text))
            if outcome.changes:
                counts.changed += 1
                counts.count_changes(outcome.changes)
                self._show_change(name, list(outcome.changes), before, after, report)
            kept.append(after)
        return kept

    def _show_change(self, name: str, kinds: list[str], before: Document, after: Document, report: Report) -> None:
        wanted = [kind for kind in kinds if report.wants_example(f"{name}/{kind}", before.key)]
        if not wanted:
            return
        # Masked before anything is cut, or a secret at the edge of an excerpt would not be known by its form.
        was, became = self._masked(before), self._masked(after)
        place = first_difference(was, became) if name != "privacy" else first_difference(before.text, after.text)
        for kind in wanted:
            report.add_example(f"{name}/{kind}", before.key, excerpt_around(was, place), excerpt_around(became, place))

    def _masked(self, document: Document) -> str:
        return mask(document.text, self.config.privacy)[0]


def _remembered(documents: Iterator[Document], texts: list[str]) -> Iterator[Document]:
    for document in documents:
        texts.append(document.text)
        yield document


_chains: dict[str, list[tuple[str, Stage]]] = {}


def _chain(config: CleaningConfig) -> list[tuple[str, Stage]]:
    """Return the stages, built once per process: language models and evaluation sets take a while to load."""
    settings = json.dumps(asdict(config), sort_keys=True)
    if settings not in _chains:
        _chains[settings] = build_chain(config)
    return _chains[settings]
