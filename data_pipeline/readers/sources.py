"""The `sources` corpus: several sources of files, each with a name, settings of its own, and a weight for training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document, Unit, Unreadable
from data_pipeline.readers.files import Files
from data_pipeline.readers.input import ReadingConfig

NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass
class SourceConfig(ReadingConfig):
    """Settings of one source.

    Args:
        weight: its share of the mixture at training time, relative to the others'; has no influence on what is read.
    """

    weight: float | None = None


@dataclass
class SourcesConfig:
    """Settings of the `sources` corpus.

    Args:
        sources: by name, under which the documents are counted; read in the order of the names.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)


class Sources:
    """Documents from several sources, one source after the other."""

    def __init__(self, config: SourcesConfig):
        self._config = config
        self._files = {
            name: Files(source, name, f"corpus.sources.{name}") for name, source in sorted(config.sources.items())
        }

    def units(self) -> list[Unit]:
        """Return the units of all sources; see `Files.units`.

        Raises:
            UserError: no source, a name or weight that can't be one, or a mistake in a source.
        """
        if not self._files:
            raise UserError(
                "corpus.sources is empty: name a source and give its files, as in corpus.sources.web.paths=[a/*.jsonl]"
            )
        for name, source in self._config.sources.items():
            if not NAME.fullmatch(name):
                raise UserError(f"corpus.sources: {name!a} can't be a source's name; take letters, digits, -, _ and .")
            if source.weight is not None and not (source.weight > 0 and math.isfinite(source.weight)):
                raise UserError(f"corpus.sources.{name}.weight={source.weight} must be more than 0")
        return [unit for files in self._files.values() for unit in files.units()]

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield a unit's documents; see `Files.read`."""
        return self._files[unit.source].read(unit)

    def weights(self) -> dict[str, float]:
        """Return the weights that were given, by source."""
        return {
            name: source.weight for name, source in sorted(self._config.sources.items()) if source.weight is not None
        }
