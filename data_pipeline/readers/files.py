"""The `files` corpus: text, Markdown, JSON Lines and Parquet files, plain or compressed, streamed in a fixed order."""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document, Piece, Unit, Unreadable

TEXT = (".txt", ".md")
COMPRESSED = (".gz", ".zst")
READ_BYTES = 1 << 20


@dataclass
class FilesConfig:
    """Settings of the `files` corpus.

    Args:
        paths: files and glob patterns (`**` goes through folders), read in this order, each pattern's files sorted.
        source: name under which the documents are counted, and mixed with those of other sources.
        text_field: key or column of the text in .jsonl and .parquet.
        separator: text that divides .txt and .md files into documents; a file is one document without. `\\n` is a
            line end.
        skip_invalid: leave out lines and files that can't be read as text, and count them, instead of stopping.
    """

    paths: list[str] = field(default_factory=list)
    source: str = "text"
    text_field: str = "text"
    separator: str | None = None
    skip_invalid: bool = False


class Files:
    """Documents from the user's files."""

    def __init__(self, config: FilesConfig):
        self._config = config
        self._separator = (config.separator or "").replace("\\n", "\n")

    def units(self) -> list[Unit]:
        """Raises UserError: no paths, a path without files, a file of an unknown kind."""
        return _find(self._config.paths, self._config.source)

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield a unit's documents.

        Raises:
            UserError: something can't be read; the message names the file, and the line where there are lines.
        """
        for path in (Path(piece.location) for piece in unit.pieces):
            try:
                for item in self._items(path):
                    if isinstance(item, Unreadable):
                        yield item
                    elif item[1].strip():
                        yield Document(item[1], unit.source, f"{path}:{item[0]}")
                    else:
                        yield Unreadable("empty", f"{path}:{item[0]}", "there is no text in it")
            except OSError as error:
                raise UserError(f"{path} can't be read: {error.strerror or error}") from None

    def _items(self, path: Path) -> Iterator[_Item]:
        match _kind(path):
            case ".jsonl":
                return self._json_lines(path)
            case ".parquet":
                return self._parquet(path)
            case _:
                return self._plain(path)

    def _plain(self, path: Path) -> Iterator[_Item]:
        with _open(path) as file:
            decoded = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            try:
                yield from enumerate(_split(decoded, self._separator) if self._separator else [decoded.read()], 1)
            except UnicodeDecodeError as error:
                yield self._invalid("invalid_text", str(path), _where(error))

    def _json_lines(self, path: Path) -> Iterator[_Item]:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                try:
                    text = _text_of(json.loads(line), self._config.text_field)
                except UnicodeDecodeError as error:
                    yield self._invalid("invalid_text", f"{path}:{number}", _where(error))
                except (ValueError, RecursionError) as error:
                    yield self._invalid("invalid_json", f"{path}:{number}", f"not a line of JSON with text: {error}")
                else:
                    yield number, text

    def _parquet(self, path: Path) -> Iterator[_Item]:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        name = self._config.text_field
        try:
            with parquet.ParquetFile(path) as file:
                columns = file.schema_arrow
                if name not in columns.names:
                    raise UserError(f"{path} has no column `{name}`; it has {', '.join(columns.names)}; {_FIELD_HINT}")
                kind = columns.field(name).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise UserError(f"{path}: column `{name}` holds {kind}, not text; {_FIELD_HINT}")
                number = 0
                for batch in file.iter_batches(batch_size=256, columns=[name]):
                    for value in batch.column(0):
                        number += 1
                        try:
                            text = value.as_py()
                        except UnicodeDecodeError as error:
                            yield self._invalid("invalid_text", f"{path}, row {number}", _where(error))
                            continue
                        if text is None:
                            yield self._invalid("no_text", f"{path}, row {number}", f"`{name}` is null")
                        else:
                            yield number, text
        except pa.ArrowException as error:
            raise UserError(f"{path} is not a Parquet file that can be read: {error}") from None

    def _invalid(self, reason: str, key: str, message: str) -> Unreadable:
        if not self._config.skip_invalid:
            raise UserError(f"{key}: {message}; mend it, or leave such texts out with corpus.skip_invalid=true")
        return Unreadable(reason, key, message)


_Item = tuple[int, str] | Unreadable
_FIELD_HINT = "name the one with the text by corpus.text_field=NAME"


def _find(paths: list[str], source: str) -> list[Unit]:
    if not paths:
        raise UserError("corpus.paths is empty: give the files to read, such as corpus.paths=['texts/*.jsonl.gz']")
    found: dict[Path, None] = {}
    for pattern in paths:
        matches = _matches(pattern)
        if not matches:
            hint = f"; for a folder's files write '{pattern}/**/*.txt'" if Path(pattern).is_dir() else ""
            raise UserError(f"corpus.paths: no file matches {pattern}{hint}")
        found |= dict.fromkeys(matches)
    for path in found:
        if _kind(path) not in (*TEXT, ".jsonl", ".parquet"):
            raise UserError(
                f"{path}: can't tell what kind of file this is; known are .txt, .md and .jsonl (also with "
                f"{' or '.join(COMPRESSED)}) and .parquet"
            )
    return [Unit(source, (Piece(str(path)),), path.stat().st_size) for path in found]


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).is_file():  # also where its name has brackets
        return [Path(pattern)]
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    return name.suffix if name.suffix != ".parquet" or name == path else ""


def _open(path: Path) -> BinaryIO:
    # Arrow's decompressors, because they notice a stream that is cut short and read on after the first gzip member or
    # zstd frame; the usual Python bindings for zstd do neither.
    import pyarrow as pa

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    return io.BufferedReader(pa.input_stream(str(path), compression=compression), READ_BYTES)  # type: ignore[arg-type]


def _split(file: io.TextIOWrapper, separator: str) -> Iterator[str]:
    rest = ""
    while chunk := file.read(READ_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _text_of(record: Any, name: str) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"the line holds a {type(record).__name__}, not an object")
    if name not in record:
        raise ValueError(f"there is no field `{name}` among {', '.join(record) or 'none'}; {_FIELD_HINT}")
    text = record[name]
    if not isinstance(text, str):
        raise ValueError(f"`{name}` is a {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` has half of a surrogate pair, which is no text") from None
    return text


def _where(error: UnicodeDecodeError) -> str:
    return f"invalid UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason})"
