"""Corpora: where documents come from. A configuration chooses one by name from this list, and from nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from data_pipeline.parallel import Workers
from data_pipeline.readers.document import Document, InputFile
from data_pipeline.readers.files import Files, FilesConfig
from data_pipeline.readers.python_docs import PythonDocs, PythonDocsConfig

CORPORA: dict[str, type] = {"files": FilesConfig, "python_docs": PythonDocsConfig}


class Corpus(Protocol):
    """Documents in a fixed order, from files that can be listed before they are read."""

    dropped: Counter[str]

    def inputs(self) -> list[InputFile]: ...

    def documents(self) -> Iterator[Document]: ...


def open_corpus(config: FilesConfig | PythonDocsConfig, workers: Workers) -> Corpus:
    """Find a corpus's files. Raises UserError where there are none."""
    match config:
        case FilesConfig():
            return Files(config)
        case PythonDocsConfig():
            return PythonDocs(config, workers)


def corpus_name(config: FilesConfig | PythonDocsConfig) -> str:
    return next(name for name, kind in CORPORA.items() if isinstance(config, kind))
