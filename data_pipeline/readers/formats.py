"""The formats that files may have, by the suffixes of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import file_name, shown
from data_pipeline.readers.arrow import read_arrow
from data_pipeline.readers.delimited import read_csv, read_tsv
from data_pipeline.readers.html import read_html
from data_pipeline.readers.input import Input, Item
from data_pipeline.readers.json_array import read_json_array
from data_pipeline.readers.json_lines import read_json_lines
from data_pipeline.readers.parquet import read_parquet
from data_pipeline.readers.plain_text import read_plain_text
from data_pipeline.readers.streams import COMPRESSIONS
from data_pipeline.readers.tar import read_tar
from data_pipeline.readers.warc import read_warc


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        read: yields its texts.
        suffixes: of its files' names.
        compressible: whether they may be compressed as a whole, with a suffix for it behind the first.
    """

    read: Callable[[Input], Iterator[Item]]
    suffixes: tuple[str, ...]
    compressible: bool = True


FORMATS = {
    "txt": Format(read_plain_text, (".txt",)),
    "md": Format(read_plain_text, (".md",)),
    "html": Format(read_html, (".html", ".htm")),
    "jsonl": Format(read_json_lines, (".jsonl", ".ndjson")),
    "json": Format(read_json_array, (".json",)),
    "csv": Format(read_csv, (".csv",)),
    "tsv": Format(read_tsv, (".tsv",)),
    "parquet": Format(read_parquet, (".parquet",), compressible=False),
    "arrow": Format(read_arrow, (".arrow",), compressible=False),
    "warc": Format(read_warc, (".warc", ".wet")),
    "tar": Format(read_tar, (".tar",)),
}


def format_of(location: str, chosen: str | None, key: str) -> str:
    """Return the name of a file's format.

    Args:
        location: of the file.
        chosen: by the user, for all files; else the suffix decides.
        key: of the settings, for messages.

    Raises:
        UserError: it can't be told, or is compressed though it mustn't be.
    """
    name = file_name(location).lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    stem = name.removesuffix(compression)
    known = chosen or next((kind for kind, one in FORMATS.items() if stem.endswith(one.suffixes)), None)
    if known is None:
        suffixes = ", ".join(suffix for one in FORMATS.values() for suffix in one.suffixes)
        raise UserError(
            f"{shown(location)}: can't tell what kind of file this is; known are {suffixes}, most of them also with "
            f"{', '.join(COMPRESSIONS)}. If it is one of them, say which by {key}.format=KIND"
        )
    if compression and not FORMATS[known].compressible:
        raise UserError(
            f"{shown(location)}: {known} files are compressed within, never as a whole: decompress it first"
        )
    return known


def check_format(chosen: str | None, key: str) -> None:
    """Raises UserError: there is no such format."""
    if chosen is not None and chosen not in FORMATS:
        raise UserError(f"{key}.format={chosen}: there are {', '.join(FORMATS)}")
