"""Documents on their way through the phases: parts of some megabytes of text, each a compressed Arrow file.

A part holds documents of one source, in their order. All parts in the order of their names are the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.files import whole_file
from data_pipeline.readers.document import Document

BATCH_BYTES = 1 << 20
SUFFIX = ".arrow"
COLUMNS = ("text", "key", "markup", "language")
SPANS = "spans"


@dataclass(frozen=True)
class Part:
    """A part, and where it belongs.

    Args:
        name: `UUUUU-PPPPP`: the unit that it was read from, and its number there.
        source: of its documents.
        first_document: number of its first document in the whole corpus, as it was read.
        documents, bytes: how many, and how much UTF-8 text, as they were read.
        pages: of them, those with markup.
    """

    name: str
    source: str
    first_document: int
    documents: int
    bytes: int
    pages: int

    def file(self, folder: Path, suffix: str = SUFFIX) -> Path:
        return folder / (self.name + suffix)


@dataclass(frozen=True)
class Written:
    """What a part's file holds: documents, the bytes of their text in UTF-8, and how many of them have markup."""

    documents: int
    bytes: int
    pages: int


def write_part(path: Path, documents: Iterable[Document]) -> Written:
    """Write the documents of one source to a file, which appears when it is whole."""
    import pyarrow as pa
    import pyarrow.compute as compute

    count = size = pages = 0
    spans = pa.large_list(pa.list_(pa.int64(), 2))
    schema = pa.schema([*((name, pa.large_string()) for name in COLUMNS), (SPANS, spans)])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with whole_file(path) as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches(documents):
            columns = [[getattr(document, name) for document in batch] for name in (*COLUMNS, SPANS)]
            record = pa.record_batch(columns, schema=schema)
            writer.write_batch(record)
            count += len(batch)
            size += compute.sum(compute.binary_length(record.column("text"))).as_py()
            pages += sum(document.markup != "text" for document in batch)
    return Written(count, size, pages)


def read_part(path: Path, source: str) -> Iterator[list[Document]]:
    """Yield the documents of a part in lists of about a megabyte."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as mapped:
        reader = pa.ipc.open_file(mapped)
        for number in range(reader.num_record_batches):
            texts, keys, markups, languages, spans = (column.to_pylist() for column in reader.get_batch(number).columns)
            yield [
                Document(text, source, key, markup, language, tuple(map(tuple, labelled)))
                for text, key, markup, language, labelled in zip(texts, keys, markups, languages, spans)
            ]


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Cut a stream of documents into lists of about a megabyte."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
