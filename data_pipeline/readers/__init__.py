"""Corpora: where documents come from. A configuration chooses one by name from this list, and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from data_pipeline.readers.document import Document, Unit, Unreadable
from data_pipeline.readers.files import Files, FilesConfig
from data_pipeline.readers.python_docs import PythonDocs, PythonDocsConfig

CORPORA: dict[str, type] = {"files": FilesConfig, "python_docs": PythonDocsConfig}


class Corpus(Protocol):
    """Documents in a fixed order, unit by unit. Cheap to make; only `units` looks for files, only `read` opens them."""

    def units(self) -> list[Unit]:
        """Find the files, and divide them into units. Raises UserError where there are none."""
        ...

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield what is in a unit, holding one document (or one batch of a table) in memory.

        Raises:
            UserError: something can't be read, and the user has not said that it may be left out; the message names
                the file, and the line, row or member.
        """
        ...


def open_corpus(config: FilesConfig | PythonDocsConfig) -> Corpus:
    match config:
        case FilesConfig():
            return Files(config)
        case PythonDocsConfig():
            return PythonDocs(config)


def corpus_name(config: FilesConfig | PythonDocsConfig) -> str:
    return next(name for name, kind in CORPORA.items() if isinstance(config, kind))
