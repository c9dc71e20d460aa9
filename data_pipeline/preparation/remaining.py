"""What remains of a corpus after cleaning, and after its duplicates have been found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.deduplication.duplicates import NO_DOCUMENT, find_duplicates, read_duplicates
from data_pipeline.deduplication.signatures import DuplicatesConfig
from data_pipeline.deduplication.signed_parts import SignedPart
from data_pipeline.preparation.clean import SIGNATURES
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.parts import Part, read_part
from data_pipeline.preparation.workplace import Workplace
from data_pipeline.readers.document import Document

PHASE = "duplicates"
DUPLICATES = ".duplicates"


@dataclass(frozen=True)
class Numbered:
    """A document of the cleaned corpus.

    Args:
        number: in the whole corpus.
        original: number of the document that it duplicates, or None where it stays.
        exact: whether it has the same text as an earlier one.
    """

    number: int
    document: Document
    original: int | None = None
    exact: bool = False


@dataclass(frozen=True)
class Remaining:
    """The documents that go on.

    Args:
        documents: folder of the cleaned parts.
        duplicates: folder that says which are duplicates, or None where nobody looked.
    """

    documents: Path
    duplicates: Path | None = None

    def read(self, part: Part) -> Iterator[list[Document]]:
        """Yield the documents of a part that stay, in lists of about a megabyte."""
        for numbered in self.read_all(part):
            yield [each.document for each in numbered if each.original is None]

    def read_all(self, part: Part) -> Iterator[list[Numbered]]:
        """Yield a part's documents, duplicates among them, in lists of about a megabyte."""
        found = read_duplicates(part.file(self.duplicates, DUPLICATES)) if self.duplicates else None
        first = 0
        for documents in read_part(part.file(self.documents), part.source):
            numbers = range(part.first_document + first, part.first_document + first + len(documents))
            if found is None:
                yield [Numbered(number, document) for number, document in zip(numbers, documents)]
            else:
                originals = found.originals[first : first + len(documents)].tolist()
                exact = found.exact[first : first + len(documents)].tolist()
                yield [
                    Numbered(number, document, None if original == NO_DOCUMENT else original, same)
                    for number, document, original, same in zip(numbers, documents, originals, exact)
                ]
            first += len(documents)


def find_remaining(place: Workplace, corpus: Corpus, config: DuplicatesConfig, engine: Engine) -> Remaining:
    """Find the duplicates of a cleaned corpus, if they are to be found."""
    if not (config.exact.enabled or config.near.enabled):
        return Remaining(corpus.folder)
    if not place.is_done(PHASE):
        signatures, duplicates = place.folder("signatures"), place.folder("duplicates")
        parts = [
            SignedPart(part.file(signatures, SIGNATURES), part.file(duplicates, DUPLICATES), part.first_document)
            for part in corpus.parts
        ]
        find_duplicates(parts, place.root / "search", config, engine.run)
        place.finish(PHASE)
        shutil.rmtree(signatures, ignore_errors=True)
    return Remaining(corpus.folder, place.root / "duplicates")
