"""The settings of raw text that is streamed as it comes; see `raw` for what that promises."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import shown
from data_pipeline.readers.input import ReadingConfig


@dataclass
class RawConfig(ReadingConfig):
    """Settings of streamed text.

    Args:
        tokenizer: a `tokenizer.json`, or a folder with one.
        validation: files that are measured on; nothing is measured without.
        buffer: documents that are shuffled among themselves.
    """

    tokenizer: str | None = None
    validation: list[str] = field(default_factory=list)
    buffer: int = 1000

    def check(self) -> None:
        """Refuse settings that can't work with any text. Raises UserError."""
        if self.tokenizer is None:
            raise UserError("data.raw.tokenizer is missing: give a tokenizer.json, or a folder with one")
        if self.buffer < 1:
            raise UserError(f"data.raw.buffer={self.buffer} must be at least 1")
        for path in (*self.paths, *self.validation):
            if shown(path) != path:
                raise UserError(
                    f"data.raw: {shown(path)}: give URLs without credentials or query, for they are recorded with the "
                    "run; a user and password can be kept in ~/.netrc"
                )
