"""Objects in S3 and Google Cloud Storage: found by patterns, and read in blocks of one and the same version."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from typing import Any

from data_pipeline.foundation import remote
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.remote import CHANGED, Interrupted, Patience, reason_of

BLOCK_BYTES = 1 << 23
"""Each block is a request of its own."""


class ObjectStream:
    """An object in S3 or Google Cloud Storage, asked for block by block, all of them of this very version of it.

    Args:
        scheme: `s3` or `gs`.
        path: bucket and key.
        start: the first byte that is wanted.

    Raises:
        UserError: it is missing or forbidden, or there are no credentials.
        Interrupted: the store can't be reached.
    """

    def __init__(self, scheme: str, path: str, start: int = 0):
        self._name = f"{scheme}://{path}"
        store: Any = filesystem(scheme)
        try:
            details = store.info(path)
            generation = details.get("generation")
            pinned = f"{path}#{generation}" if generation else path
            self._file = store.open(pinned, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
        except Exception as error:
            raise _interruption(self._name, error) from None
        self.position: int = start
        self.size: int | None = int(details["size"])
        known = ("ETag", "etag", "md5Hash", "LastModified", "updated")
        self.version: str | None = next((str(details[key]) for key in known if details.get(key)), None)

    def read(self, size: int) -> bytes:
        try:
            self._file.seek(self.position)
            data: bytes = self._file.read(size)
        except Exception as error:
            if type(error).__name__ == "FileExpired" or isinstance(error, FileNotFoundError):
                raise Failure(f"{self._name} {CHANGED}") from None
            raise _interruption(self._name, error) from None
        self.position += len(data)
        return data

    def close(self) -> None:
        self._file.close()


def find_objects(scheme: str, path: str) -> dict[str, int]:
    """Return the objects that a path or a glob pattern names, with their sizes.

    Raises:
        UserError: the bucket is forbidden or can't be, there are no credentials, or a package isn't installed.
        Failure: the store can't be reached.
    """
    store = filesystem(scheme)
    name = f"{scheme}://{path}"
    found = _attempted(name, "read", lambda: _entries(store, path))
    return {key: int(entry["size"]) for key, entry in found.items() if entry["type"] == "file" and key[-1] != "/"}


def _entries(store: Any, path: str) -> dict[str, Any]:
    try:
        return {path: store.info(path)}
    except FileNotFoundError:
        return store.glob(path, detail=True) if re.search(r"[*?\[]", path) else {}


def objects_under(scheme: str, prefix: str) -> dict[str, int]:
    """Return the objects whose keys begin with `PREFIX/`, by what follows, with their sizes.

    Raises:
        UserError, Failure: as `find_objects` does.
    """
    store, prefix = filesystem(scheme), prefix.rstrip("/")
    found = _attempted(f"{scheme}://{prefix}", "listed", lambda: store.find(prefix, detail=True))
    sizes = {key.removeprefix(f"{prefix}/"): int(entry["size"]) for key, entry in found.items()}
    return {name: size for name, size in sizes.items() if name and name[-1] != "/"}


def put_object(scheme: str, path: str, source: str) -> None:
    """Write a file of this machine as an object, which appears when it is whole.

    Raises:
        UserError: there is no such bucket, or it is forbidden.
        Failure: the store can't be reached.
        FileNotFoundError: the source is gone.
    """
    store = filesystem(scheme)
    # Parts of 50 MB are held in memory while they are sent; ten of them by default.
    settings = {"max_concurrency": 2} if scheme == "s3" else {}

    def put() -> None:
        try:
            store.put_file(source, path, **settings)
        except FileNotFoundError:
            if not os.path.exists(source):
                raise _Gone from None
            raise

    try:
        _attempted(f"{scheme}://{path}", "written", put)
    except _Gone:
        raise FileNotFoundError(source) from None


def remove_object(scheme: str, path: str) -> None:
    """Remove an object, if it is there. Raises UserError and Failure as `put_object` does."""
    store = filesystem(scheme)

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            store.rm_file(path)

    _attempted(f"{scheme}://{path}", "removed", remove)


class _Gone(Exception):
    """What was to be sent isn't there any more; no attempt can mend that."""


def _attempted(name: str, done: str, action: Callable[[], Any]) -> Any:
    patience = Patience(name, done=done)
    while True:
        try:
            return action()
        except _Gone:
            raise
        except Exception as error:
            patience.wait(_interruption(name, error))


def filesystem(scheme: str) -> Any:
    """Return fsspec's view of a kind of store, with time-outs, without caches, without attempts of its own.

    Raises UserError: its package isn't installed.
    """
    import fsspec

    try:
        if scheme == "s3":
            settings = {
                "connect_timeout": remote.READ_SECONDS,
                "read_timeout": remote.READ_SECONDS,
                "retries": {"total_max_attempts": 1},
            }
            store = fsspec.filesystem("s3", config_kwargs=settings, use_listings_cache=False)
            store.retries = 1
            return store
        # What it logs, with tracebacks, is either no matter or told by an error of ours.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        return fsspec.filesystem("gs", version_aware=True, use_listings_cache=False)
    except ImportError:
        raise UserError(f"{scheme}:// needs a package that isn't installed: pip install headrace[{scheme}]") from None


def _interruption(name: str, error: Exception) -> Interrupted:
    """Return an error of an object store as one that is worth another attempt. Raises UserError: it isn't."""
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{name} is not there") from None
    if kind in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
        raise UserError(
            f"{name} needs credentials and none are set; for a public bucket say so by FSSPEC_S3_ANON=true"
        ) from None
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
        raise UserError(f"{name} is not for these credentials: access is denied") from None
    if kind in ("ParamValidationError", "ProfileNotFound", "InvalidConfigError"):
        raise UserError(f"{name} can't be asked for: {' '.join(str(error).split())}") from None
    return Interrupted(reason_of(error))
