"""Corpora: where documents come from. A configuration chooses one by name from this list, and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import shown
from data_pipeline.readers.document import Document, Unit, Unreadable
from data_pipeline.readers.files import Files, FilesConfig
from data_pipeline.readers.python_docs import PythonDocs, PythonDocsConfig
from data_pipeline.readers.samples import Samples, SamplesConfig
from data_pipeline.readers.sources import Sources, SourcesConfig

CORPORA: dict[str, type] = {
    "files": FilesConfig,
    "python_docs": PythonDocsConfig,
    "samples": SamplesConfig,
    "sources": SourcesConfig,
}
CorpusConfig = FilesConfig | PythonDocsConfig | SamplesConfig | SourcesConfig


class Corpus(Protocol):
    """Documents in a fixed order, unit by unit. Cheap to make; only `units` looks for files, only `read` reads them."""

    def units(self) -> list[Unit]:
        """Find the files, and divide them into units.

        Raises:
            UserError: there are none, or a setting is impossible.
            Failure: a server can't be reached.
        """
        ...

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield what is in a unit, holding one document (or one batch of a table) in memory.

        Raises:
            UserError: something can't be read, and the user has not said that it may be left out; the message names
                the file, and the line, row or member.
            Failure: a server can't be reached, or a file on it has changed while it was read.
        """
        ...

    def weights(self) -> dict[str, float]:
        """Return how much of the mixture each source is to have at training time, relative to the others, if given."""
        ...


def open_corpus(config: CorpusConfig) -> Corpus:
    """Return the corpus of a configuration. Raises UserError: it is of no known kind."""
    match config:
        case FilesConfig():
            return Files(config, config.source)
        case PythonDocsConfig():
            return PythonDocs(config)
        case SamplesConfig():
            return Samples(config)
        case SourcesConfig():
            return Sources(config)
    raise UserError(
        "an option of your own for `corpus` has to begin with one of ours, to say what its keys mean: "
        f"`defaults: [sources, _self_]`; there are {', '.join(CORPORA)}"
    )


def corpus_name(config: CorpusConfig) -> str:
    return next(name for name, kind in CORPORA.items() if isinstance(config, kind))


def without_secrets(config: CorpusConfig) -> dict[str, Any]:
    """Return a corpus's settings for a manifest that others will read: URLs without passwords and signatures."""

    def cleaned(settings: dict[str, Any]) -> dict[str, Any]:
        return {**settings, "paths": [shown(path) for path in settings["paths"]]} if "paths" in settings else settings

    settings = cleaned(asdict(config))
    if "sources" in settings:
        settings["sources"] = {name: cleaned(source) for name, source in settings["sources"].items()}
    return settings
