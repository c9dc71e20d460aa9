"""What remains of a corpus after cleaning, and after its duplicates have been found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.preparation.parts import Part, read_part
from data_pipeline.readers.document import Document


@dataclass(frozen=True)
class Remaining:
    """The documents that go on.

    Args:
        documents: folder of the cleaned parts.
        duplicates: folder that says which are duplicates, or None where nobody looked.
    """

    documents: Path
    duplicates: Path | None = None

    def read(self, part: Part) -> Iterator[list[tuple[int, Document]]]:
        """Yield a part's documents with their numbers in the corpus, in lists of about a megabyte."""
        number = part.first_document
        for documents in read_part(part.file(self.documents), part.source):
            yield list(enumerate(documents, number))
            number += len(documents)
