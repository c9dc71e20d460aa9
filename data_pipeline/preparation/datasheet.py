"""`dataset.html`: what is in a dataset, where it came from and what was done to it, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import write_text
from data_pipeline.foundation.pages import page_style, page_templates
from data_pipeline.manifest import Manifest
from data_pipeline.preparation.composition import Composition
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.encode import KEPT
from data_pipeline.preparation.parts import read_part
from data_pipeline.preparation.report import EXAMPLES, Example, Report, StageCounts, excerpt_around

FILE_NAME = "dataset.html"
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Datasheet:
    """What the page is made of.

    Args:
        sources: what each source consists of.
        report: what every stage did, with examples.
        originals: beginning of the documents that shown duplicates repeat, by number.
        vocabulary_used: tokens that occur.
    """

    manifest: Manifest
    sources: dict[str, Composition]
    report: Report
    originals: dict[int, str]
    vocabulary_used: int

    def save(self, folder: Path) -> None:
        write_text(folder / FILE_NAME, self.render())

    def render(self) -> str:
        """Return the page; the same dataset always gives the same."""
        templates = page_templates(TEMPLATES)
        templates.filters.update(grouped=lambda value: f"{value:,}", megabytes=_megabytes, percent=_percent)
        manifest, whole = self.manifest, Composition()
        for composition in self.sources.values():
            whole.add(composition)
        total = whole.total()
        stages = list(_stages(self.report))
        return templates.get_template("datasheet.html").render(
            fingerprint=manifest.fingerprint,
            tokenizer_fingerprint=manifest.tokenizer_fingerprint,
            style=page_style(TEMPLATES / "datasheet.css"),
            cards=[
                (f"{total.documents:,}", "documents"),
                (f"{total.tokens:,}", "tokens"),
                (_megabytes(total.bytes), "MB of text"),
                (_percent(stages[-1]["share"]), "of the text read was kept"),
            ],
            sources=[
                {
                    "name": name,
                    **_counts(asdict(composition.total())),
                    "share": composition.total().tokens / max(1, total.tokens),
                    "weight": _weight(manifest, name),
                }
                for name, composition in self.sources.items()
            ],
            weighted=any(counts.weight is not None for counts in manifest.sources.values()),
            splits=[{"name": f"{name} split", **_counts(asdict(counts))} for name, counts in whole.splits.items()],
            stages=stages,
            by_source={"names": list(self.sources), "rows": list(_by_source(self.report, list(self.sources)))},
            lengths=_lengths(whole),
            languages=[
                {"name": name or "not identified", **_counts(asdict(counts))}
                for name, counts in sorted(whole.languages.items(), key=lambda item: (-item[1].bytes, item[0]))
            ]
            if set(whole.languages) - {""}
            else [],
            vocabulary={
                "used": self.vocabulary_used,
                "size": manifest.vocabulary_size,
                "share": self.vocabulary_used / manifest.vocabulary_size,
                "bytes_per_token": _ratio(total.bytes, total.tokens),
            },
            examples=list(self._examples()),
            examples_shown=EXAMPLES,
            settings=json.dumps(manifest.settings, indent=1, ensure_ascii=False),
        )

    def _examples(self) -> Iterator[dict[str, Any]]:
        """Yield the examples by stage: what was kept first, then what each stage did."""
        for stage in (KEPT, *self.report.stages):
            kinds = {
                name.removeprefix(f"{stage}/"): examples
                for name, examples in sorted(self.report.examples.items())
                if name.startswith(f"{stage}/")
            }
            if kinds:
                shown = [(_words(kind), [self._example(each) for each in examples]) for kind, examples in kinds.items()]
                yield {"name": _words(stage), "kinds": shown}

    def _example(self, example: Example) -> dict[str, Any]:
        beside = None if example.original is None else self.originals.get(example.original, "")
        return {"where": example.key, "before": example.before, "after": example.after, "beside": beside}


def originals_of(report: Report, corpus: Corpus) -> dict[int, str]:
    """Return the beginnings of the documents that the shown duplicates repeat. They lie in a few parts at most."""
    wanted = {each.original for examples in report.examples.values() for each in examples if each.original is not None}
    found = {}
    for part in corpus.parts:
        here = {number for number in wanted if part.first_document <= number < part.first_document + part.documents}
        if here:
            number = part.first_document
            for documents in read_part(part.file(corpus.folder), part.source):
                for document in documents:
                    if number in here:
                        found[number] = excerpt_around(document.text, 0)
                    number += 1
    return found


def _stages(report: Report) -> Iterator[dict[str, Any]]:
    """Yield every stage's counts over all sources, with its shares of the text that was read."""
    read = None
    for name, sources in report.stages.items():
        whole = StageCounts()
        for counts in sources.values():
            whole.add(counts)
        read = read or max(1, whole.given.bytes)
        yield {
            "name": _words(name),
            **vars(whole),
            "share": whole.given.bytes / read,
            "lost": max(0, whole.taken.bytes - whole.given.bytes) / read,
            "dropped": [(_words(reason), amount) for reason, amount in sorted(whole.dropped.items())],
            "changes": [(_words(kind), count) for kind, count in sorted(whole.changes.items())],
        }


def _by_source(report: Report, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    for stage, sources in report.stages.items():
        counts = [sources.get(name, StageCounts()) for name in names]
        yield _words(stage), [f"{each.given.documents:,} of {each.taken.documents:,}" for each in counts]


def _lengths(whole: Composition) -> list[dict[str, Any]]:
    powers = range(min(whole.lengths), max(whole.lengths) + 1)
    most = max(whole.lengths.values())
    return [
        {
            "documents": whole.lengths.get(power, 0),
            "height": 100 * whole.lengths.get(power, 0) / most,
            "label": f"{_bytes(1 << power)} to {_bytes(2 << power)}",
            "first": _bytes(1 << power),
            "last": _bytes(2 << power),
        }
        for power in powers
    ]


def _counts(counts: dict[str, int]) -> dict[str, Any]:
    return {**counts, "bytes_per_token": _ratio(counts["bytes"], counts["tokens"])}


def _weight(manifest: Manifest, source: str) -> str:
    weight = manifest.sources[source].weight
    return "" if weight is None else f"{weight:g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _ratio(bytes: int, tokens: int) -> str:
    return f"{bytes / max(1, tokens):.2f}"


def _megabytes(bytes: int) -> str:
    return f"{bytes / 1e6:,.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
