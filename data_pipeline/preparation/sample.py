"""A sample of the corpus for the tokenizer to be trained on: pieces of text drawn evenly from all of it.

The pieces with the smallest hashes are taken, so the same text gives the same sample, whatever its order and whoever
draws it. Each part gives those below a bound at which all parts together give a little more than is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.parts import Part
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.preparation.remaining import Remaining
from data_pipeline.preparation.workplace import Workplace

PIECE_CHARACTERS = 1 << 16
MARGIN = 1.5
HASHES = 2**64


def sample_corpus(
    place: Workplace, corpus: Corpus, remaining: Remaining, maximum_bytes: int, engine: Engine
) -> list[str]:
    """Return pieces of text, by ascending hash, of about `maximum_bytes` of UTF-8 together."""
    total = sum(part.bytes for part in corpus.parts)
    bound = min(HASHES, int(HASHES * MARGIN * maximum_bytes / max(1, total)))
    task = SamplePart(remaining, place.folder("sample"), bound)
    engine.run("drawing text for the tokenizer", task, corpus.parts, corpus.megabytes())
    pieces = sorted((rank, text) for part in corpus.parts for rank, text in read_record(task.record(part)))
    sample: list[str] = []
    size = 0
    for _, text in pieces:
        size += len(text.encode())
        if size > maximum_bytes and sample:
            break
        sample.append(text)
    return sample


@dataclass(frozen=True)
class SamplePart:
    """Draws the pieces of one part whose hashes lie below a bound."""

    remaining: Remaining
    sample: Path
    bound: int

    def record(self, part: Part) -> Path:
        return part.file(self.sample, ".json")

    def __call__(self, part: Part) -> None:
        if not has_record(self.record(part)):
            ranked = ((xxhash.xxh3_64_intdigest(piece.encode()), piece) for piece in self._pieces(part))
            write_record(self.record(part), [(rank, piece) for rank, piece in ranked if rank < self.bound])

    def _pieces(self, part: Part) -> Iterator[str]:
        for documents in self.remaining.read(part):
            for document in documents:
                for start in range(0, len(document.text), PIECE_CHARACTERS):
                    yield document.text[start : start + PIECE_CHARACTERS]
