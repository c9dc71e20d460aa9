"""The `files` corpus: text, Markdown, JSON Lines and Parquet files, plain or compressed, streamed in a fixed order."""

from __future__ import annotations

import glob
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document, InputFile

TEXT = (".txt", ".md")
COMPRESSED = (".gz", ".zst")
READ_BYTES = 1 << 20


@dataclass
class FilesConfig:
    """Settings of the `files` corpus.

    Args:
        paths: files and glob patterns (`**` goes through folders), read in this order, each pattern's files sorted.
        text_field: key or column of the text in .jsonl and .parquet.
        separator: text that divides .txt and .md files into documents; a file is one document without. `\\n` is a
            line end.
        skip_invalid: leave out lines and files that can't be read as text, and count them, instead of stopping.
    """

    paths: list[str] = field(default_factory=list)
    text_field: str = "text"
    separator: str | None = None
    skip_invalid: bool = False


class Files:
    """Documents from the user's files.

    Raises:
        UserError: no paths, a path without files, a file of an unknown kind.
    """

    def __init__(self, config: FilesConfig):
        self.dropped: Counter[str] = Counter()
        self._config = config
        self._separator = (config.separator or "").replace("\\n", "\n")
        self._inputs = _find(config.paths)

    def inputs(self) -> list[InputFile]:
        return self._inputs

    def documents(self) -> Iterator[Document]:
        """Yield every document, in a fixed order, holding one in memory (or one Parquet batch).

        Raises:
            UserError: something can't be read; the message names the file, and the line where there are lines.
        """
        self.dropped.clear()
        for input_file in self._inputs:
            path = input_file.path
            try:
                for number, text in self._texts(path):
                    if text.strip():
                        yield Document(text, input_file.source, f"{path}:{number}")
                    else:
                        self.dropped["empty"] += 1
            except OSError as error:
                raise UserError(f"{path} can't be read: {error.strerror or error}") from None

    def _texts(self, path: Path) -> Iterator[tuple[int, str]]:
        match _kind(path):
            case ".jsonl":
                return self._json_lines(path)
            case ".parquet":
                return self._parquet(path)
            case _:
                return self._plain(path)

    def _plain(self, path: Path) -> Iterator[tuple[int, str]]:
        with _open(path) as file:
            decoded = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            try:
                yield from enumerate(_split(decoded, self._separator) if self._separator else [decoded.read()], 1)
            except UnicodeDecodeError as error:
                self._invalid("invalid_text", f"{path}: {_where(error)}")

    def _json_lines(self, path: Path) -> Iterator[tuple[int, str]]:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                try:
                    text = _text_of(json.loads(line), self._config.text_field)
                except UnicodeDecodeError as error:
                    self._invalid("invalid_text", f"{path}:{number}: {_where(error)}")
                except (ValueError, RecursionError) as error:
                    self._invalid("invalid_json", f"{path}:{number}: not a line of JSON with text: {error}")
                else:
                    yield number, text

    def _parquet(self, path: Path) -> Iterator[tuple[int, str]]:
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
                            self._invalid("invalid_text", f"{path}, row {number}: {_where(error)}")
                            continue
                        if text is None:
                            self._invalid("no_text", f"{path}, row {number}: `{name}` is null")
                        else:
                            yield number, text
        except pa.ArrowException as error:
            raise UserError(f"{path} is not a Parquet file that can be read: {error}") from None

    def _invalid(self, reason: str, message: str) -> None:
        if not self._config.skip_invalid:
            raise UserError(f"{message}; mend it, or leave such texts out with corpus.skip_invalid=true")
        self.dropped[reason] += 1


_FIELD_HINT = "name the one with the text by corpus.text_field=NAME"


def _find(paths: list[str]) -> list[InputFile]:
    if not paths:
        raise UserError("corpus.paths is empty: give the files to read, such as corpus.paths=['texts/*.jsonl.gz']")
    found: dict[Path, InputFile] = {}
    for pattern in paths:
        matches = _matches(pattern)
        if not matches:
            hint = f"; for a folder's files write '{pattern}/**/*.txt'" if Path(pattern).is_dir() else ""
            raise UserError(f"corpus.paths: no file matches {pattern}{hint}")
        for path in matches:
            found.setdefault(path, InputFile(path, pattern))
    for path in found:
        if _kind(path) not in (*TEXT, ".jsonl", ".parquet"):
            raise UserError(
                f"{path}: can't tell what kind of file this is; known are .txt, .md and .jsonl (also with "
                f"{' or '.join(COMPRESSED)}) and .parquet"
            )
    return list(found.values())


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
