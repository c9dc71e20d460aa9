"""A task's records: JSON lines and arrays, tables, and parallel files of lines, compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash, json_hash

Record = dict[str, Any]


def read_records(data: str | dict[str, str], folder: Path, columns: list[str], limit: int | None) -> list[Record]:
    """Return the first records of a file, or of parallel files of lines by the fields that they fill.

    Args:
        data: `.jsonl`, `.json` (an array, or lines), `.csv` or `.tsv`, with `.gz` or without; or parallel files as
            `{en: a.en.gz, de: a.de.gz}`.
        folder: that paths are relative to.
        columns: names of a table's columns; empty takes them from its first line.

    Raises:
        UserError: a file can't be read, or holds no record.
    """
    if isinstance(data, dict):
        lines = {field: _lines(_text(folder / path)) for field, path in data.items()}
        counts = {field: len(each) for field, each in lines.items()}
        if len(set(counts.values())) != 1:
            raise UserError(f"parallel files need a line for each other's: {counts}")
        records: list[Any] = [dict(zip(lines, row)) for row in zip(*lines.values())]
        name = ", ".join(data.values())
    else:
        name = data
        records = _parse(folder / data, columns)
    if not records or not all(isinstance(record, dict) for record in records):
        raise UserError(f"data={name} holds no records: a record is an object of fields")
    return records[:limit]


def data_hash(data: str | dict[str, str], folder: Path) -> str:
    """Return the xxh3-128 of a file's bytes, or of the hashes of parallel files."""
    if isinstance(data, dict):
        return json_hash({field: file_hash(folder / path) for field, path in data.items()})
    return file_hash(folder / data)


def _parse(path: Path, columns: list[str]) -> list[Any]:
    text, suffix = _text(path), Path(path.name.removesuffix(".gz")).suffix
    try:
        if suffix == ".json" and text.lstrip().startswith("["):
            return list(json.loads(text))
        if suffix in (".jsonl", ".json"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"data={path}: {error}") from None
    if suffix in (".csv", ".tsv"):
        if suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline=""), columns or None))
        return list(csv.DictReader(_lines(text), columns or None, delimiter="\t", quoting=csv.QUOTE_NONE))
    raise UserError(f"data={path}: records are read from .jsonl, .json, .csv and .tsv, with .gz or without")


def _lines(text: str) -> list[str]:
    """Return the lines of a text: unlike `splitlines`, form feeds and the like end none."""
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data={path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except (OSError, EOFError) as error:
        raise UserError(f"data={path}: {getattr(error, 'strerror', None) or error}") from None
