"""The files of a dataset on a server: its description is copied at the start, shards are fetched as they are needed."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from data_pipeline.foundation.cache import cache_folder
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash, whole_file
from data_pipeline.foundation.locations import open_location, shown
from data_pipeline.manifest import FILE_NAME, Manifest, StoredFile, dataset_fingerprint, parse_manifest
from data_pipeline.storage.fetch_ahead import FetchAhead
from data_pipeline.storage.file_cache import ATTEMPTS, FileCache
from data_pipeline.tokenization.tokenizer import FILES as TOKENIZER_FILES


@dataclass
class CacheConfig:
    """Where files from a server are kept while they are needed.

    Args:
        folder: on a disk of the machine's own; HEADRACE_CACHE, or headrace in the user's cache folder, if None.
        gigabytes: that shards may take there, over all processes of the machine, those that still arrive included.
        ahead: shards that are fetched at once before they are needed; 0 for none.
    """

    folder: str | None = None
    gigabytes: float = 50.0
    ahead: int = 4


class RemoteFiles:
    """The files in a folder on a server.

    Args:
        location: URL of the folder.
        copy: folder with its description, from `copy_description`.
    """

    def __init__(self, location: str, copy: Path, config: CacheConfig):
        self.name, self.folder, self.limit = shown(location), copy, round(config.gigabytes * 1e9)
        self._location = location
        self._cache = FileCache(_root(config) / "shards", self.limit)
        self._ahead = FetchAhead(lambda file: self._cache.fetch(file, _within(location, file.name)), config.ahead)
        self._wanted: dict[str, Sequence[StoredFile]] = {}
        self._lock = threading.Lock()

    def open(self, file: StoredFile, patient: bool = True) -> BinaryIO:
        return self._cache.open(file, _within(self._location, file.name), patient)

    def require(self, files: Iterable[StoredFile]) -> None:
        """Asking a server for thousands of files takes long; each is asked for when it is needed."""

    def want(self, reader: str, files: Sequence[StoredFile]) -> None:
        with self._lock:
            self._wanted[reader] = files
            wanted = [file for files in self._wanted.values() for file in files]
        self._cache.favour(wanted)
        self._ahead.want([file for file in wanted if not self._cache.has(file)])

    def crowded(self) -> bool:
        return self._cache.crowded()


def copy_description(location: str, config: CacheConfig) -> tuple[Path, Manifest]:
    """Fetch the manifest and the tokenizer of a dataset on a server into a folder named by what is in them.

    Raises:
        UserError: there is no dataset there, it is damaged, or the URL has more than a folder needs.
        Failure: the server can't be reached.
    """
    parts = urllib.parse.urlsplit(location)
    if "@" in parts.netloc or (parts.scheme.startswith("http") and (parts.query or parts.fragment)):
        raise UserError(
            f"{shown(location)}: give the URL of a dataset without credentials, query or fragment, for it is recorded "
            "with the run; a user and password can be kept in ~/.netrc"
        )
    manifest_at = _within(location, FILE_NAME)
    contents = {FILE_NAME: _content(manifest_at)}
    manifest = parse_manifest(contents[FILE_NAME], shown(manifest_at), "put a whole one there")
    counted = {name: sum(shard.tokens for shard in manifest.shards if shard.split == name) for name in manifest.splits}
    fingerprint = dataset_fingerprint(manifest.shards, manifest.dtype, manifest.tokenizer_fingerprint, manifest.sources)
    if fingerprint != manifest.fingerprint or any(
        counts.tokens != counted[name] for name, counts in manifest.splits.items()
    ):
        raise UserError(f"{shown(manifest_at)} is damaged: it contradicts itself; put a whole one there")
    for name in TOKENIZER_FILES:
        contents[f"tokenizer/{name}"] = _content(_within(location, f"tokenizer/{name}"))
    hashes = {name: xxhash.xxh3_128_hexdigest(content) for name, content in contents.items()}
    folder = _root(config) / "datasets" / json_hash(hashes)
    for name, content in contents.items():
        _keep(folder / name, content)
    return folder, manifest


def _content(location: str) -> bytes:
    with open_location(location, attempts=ATTEMPTS) as file:
        return file.read()


def _keep(path: Path, content: bytes) -> None:
    try:
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, durable=False) as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"data.cache.folder: {path} can't be written: {error.strerror}") from None


def _root(config: CacheConfig) -> Path:
    return Path(config.folder) if config.folder else cache_folder()


def _within(location: str, name: str) -> str:
    return f"{location.rstrip('/')}/{name}"
