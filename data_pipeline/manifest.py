"""`manifest.json`: what a dataset folder holds, counted and hashed. Written last, so a folder with one is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash, write_json

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"
Record = TypeVar("Record")
DTYPES = ("uint16", "uint32")
SPLITS = ("train", "validation")
SHARD_NAME = re.compile(r"(train|validation)-\d{6}\.tar")
HASH = re.compile(r"[0-9a-f]{32}")


class OtherFormatError(UserError):
    """The dataset was written by another version of Headrace, so it must not be mended by this one."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a dataset folder, by its name there, as it was written."""

    name: str
    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class ShardRecord:
    """One shard: `name` is the tar's file name; its index has the same name with `.idx`."""

    name: str
    split: str
    source: str
    bytes: int
    xxh3_128: str
    index_bytes: int
    index_xxh3_128: str
    blocks: int
    documents: int
    tokens: int

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def tar(self) -> StoredFile:
        return StoredFile(self.name, self.bytes, self.xxh3_128)

    @property
    def index(self) -> StoredFile:
        return StoredFile(self.index_name, self.index_bytes, self.index_xxh3_128)


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds. `bytes` are UTF-8 bytes of its text, before tokenizing."""

    documents: int
    tokens: int
    bytes: int
    blocks: int


@dataclass(frozen=True)
class SourceCounts:
    """What came from one source, over both splits.

    Args:
        weight: share of a mixture that the source is meant to have, against the other weights; None where nobody said.
    """

    documents: int
    tokens: int
    bytes: int
    weight: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A dataset folder.

    Args:
        format_version: of the folder's layout.
        fingerprint: of the content; see `dataset_fingerprint`.
        tokenizer_fingerprint: of `tokenizer/`.
        vocabulary_size: one more than the largest token id.
        end_of_document: id of the token that ends every document.
        dtype: of the stored tokens.
        splits, sources: counts by name.
        shards: in the order in which they are read.
        settings: every setting that has an influence on the content, and the hash of the input.
        stages: by stage and source, what went in, what came out, what was changed and what was dropped.
        samples: what it holds where it isn't running text: `answers` or `preferences`; see `readers.samples`.
    """

    format_version: int
    fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    end_of_document: int
    dtype: str
    splits: dict[str, SplitCounts]
    sources: dict[str, SourceCounts]
    shards: list[ShardRecord]
    settings: dict[str, Any]
    stages: dict[str, Any]
    samples: str | None = None

    @property
    def labelled(self) -> bool:
        """Whether every token has a label."""
        return self.samples is not None

    def save(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, asdict(self))


def dataset_fingerprint(
    shards: Sequence[ShardRecord], dtype: str, tokenizer_fingerprint: str, sources: Mapping[str, SourceCounts]
) -> str:
    """Return a hash of all that decides what is learnt from a dataset: its tokens, their order and split, and the
    weights of its sources; never paths or times."""
    content = {
        "shards": [[shard.split, shard.xxh3_128] for shard in shards],
        "dtype": dtype,
        "tokenizer": tokenizer_fingerprint,
        "weights": {source: counts.weight for source, counts in sources.items() if counts.weight is not None},
    }
    return json_hash(content)


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a dataset folder.

    Raises:
        UserError: there is no such folder, it is not a dataset, it was written by a newer version, or its manifest
            is damaged.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such dataset folder; make one with `headrace prepare output={folder}`")
    if not path.is_file():
        raise UserError(f"{folder} is not a dataset: it has no {FILE_NAME}")
    mend = f"rebuild it from the shards with `headrace verify source={folder} repair=true`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    return parse_manifest(content, str(path), mend)


def parse_manifest(content: bytes, name: str, mend: str) -> Manifest:
    """Return the manifest in a file's content.

    Args:
        name: of the file, for messages.
        mend: what to do where it is damaged.

    Raises:
        UserError: it is damaged, or was written by a newer version.
    """
    try:
        return _from_json(json.loads(content))
    except OtherFormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name} is damaged ({type(error).__name__}: {error}); {mend}") from None


def _from_json(data: dict[str, Any]) -> Manifest:
    if data["format_version"] < FORMAT_VERSION:
        raise OtherFormatError(
            f"the dataset has format version {data['format_version']}, of an earlier Headrace, whose shards don't name "
            "their source: prepare it again"
        )
    if data["format_version"] > FORMAT_VERSION:
        raise OtherFormatError(
            f"the dataset has format version {data['format_version']}; this version of Headrace reads up to "
            f"{FORMAT_VERSION}: update it, or prepare the dataset again"
        )
    manifest = Manifest(
        **{
            **data,
            "splits": {name: _typed(SplitCounts, counts) for name, counts in data["splits"].items()},
            "sources": {name: _typed(SourceCounts, counts) for name, counts in data["sources"].items()},
            "shards": [_typed(ShardRecord, record) for record in data["shards"]],
        }
    )
    if manifest.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {manifest.dtype!r}")
    for shard in manifest.shards:
        # A name that isn't ours could lead out of the folder, and cached files are named by their hashes.
        if not SHARD_NAME.fullmatch(shard.name) or not shard.name.startswith(f"{shard.split}-"):
            raise ValueError(f"shard name {shard.name!r}")
        for file in (shard.tar, shard.index):
            if not HASH.fullmatch(file.xxh3_128) or file.bytes < 0:
                raise ValueError(f"{file.name} has {file.bytes} bytes and the hash {file.xxh3_128!r}")
    return manifest


def _typed(kind: type[Record], data: dict[str, Any]) -> Record:
    """Build a record of numbers and texts; a field of another type is as damaged as a missing one."""
    record = kind(**data)
    for field in fields(kind):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if ("None" if value is None else type(value).__name__) not in field.type.split(" | "):
            raise ValueError(f"{field.name} is {value!r}")
    return record
