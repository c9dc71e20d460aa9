"""Reading a file from a server that may stall, break off, be away for a while, or change the file in the meantime."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import xxhash

from data_pipeline.foundation.errors import Failure, UserError

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; twice as long before each further one, half a minute all in all."""
READ_SECONDS = 60.0
"""Without an answer, or for one read: whatever takes longer is broken off and tried again."""
HTTP_READ_BYTES = 1 << 18
OBJECT_BLOCK_BYTES = 1 << 23
PROGRESS_BYTES = 1 << 16
"""After so many the attempts are counted anew: a long download may break more often than ATTEMPTS."""
READ_THROUGH_BYTES = 1 << 18
"""Up to so far ahead, reading on is cheaper than a new request."""

COMPRESSED = (".gz", ".zst", ".xz")
CHANGED = "has changed on the server while it was read: start the same command again"

Result = TypeVar("Result")


class Interrupted(Exception):
    """The server could not be reached, or the stream broke: worth another attempt."""


class Stream(Protocol):
    """A file on a server, open for reading once, in order."""

    position: int
    """Of the next byte: where reading was asked to start, or 0 where the server can't send a part."""
    size: int | None
    version: str | None
    """What changes when the content does."""

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end. Raises Interrupted."""
        ...

    def close(self) -> None: ...


class Patience:
    """Waits between attempts, ever longer, until there have been enough of them."""

    def __init__(self, name: str):
        self._name = name
        self._failed = 0
        self._bytes = 0

    def progress(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= PROGRESS_BYTES:
            self._failed = 0

    def wait(self, error: Interrupted) -> None:
        """Wait before the next attempt. Raises Failure: there have been enough."""
        self._failed += 1
        self._bytes = 0
        if self._failed >= ATTEMPTS:
            raise Failure(
                f"{self._name} can't be read: {error}; tried {ATTEMPTS} times. Check the network and the server, "
                "then start the same command again"
            ) from None
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (self._failed - 1))


def patiently(name: str, action: Callable[[], Result]) -> Result:
    """Return what an action on an object store returns, after as many attempts as it takes.

    Raises:
        UserError: the object or bucket is missing or forbidden, or there are no credentials.
        Failure: the store can't be reached.
    """
    patience = Patience(name)
    while True:
        try:
            return action()
        except Exception as error:
            patience.wait(_interruption(name, error))


class RemoteFile(io.RawIOBase):
    """A file on a server as one unbroken file.

    Args:
        name: for messages.
        connect: opens the stream at a byte, if the file still has that version.
        start: the first byte to read.

    Raises:
        UserError: the file is missing or forbidden.
        Failure: the server can't be reached, or the file has changed since it was opened; from reading, too.
    """

    def __init__(self, name: str, connect: Callable[[int, str | None], Stream], start: int = 0):
        self.name = name
        self._connect = connect
        self._position = start
        self._patience = Patience(name)
        stream = self._keep_trying(lambda: connect(start, None))
        self._stream: Stream | None = stream
        self.size, self.version = stream.size, stream.version
        # Where the server has no word for the version, what is read again is compared with what was read before.
        self._seen = xxhash.xxh3_64() if self.version is None and start == 0 else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.size is None:
            raise io.UnsupportedOperation(f"{self.name}: the server doesn't say how long the file is")
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if target != self._position:
            if not 0 <= target - self._position <= READ_THROUGH_BYTES:
                self._drop()
            self._seen = None
            self._position = target
        return target

    def readinto(self, buffer: Any) -> int:
        data = self._keep_trying(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        self._patience.progress(len(data))
        if self._seen is not None:
            self._seen.update(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _keep_trying(self, action: Callable[[], Result]) -> Result:
        while True:
            try:
                return action()
            except Interrupted as error:
                self._drop()
                self._patience.wait(error)

    def _read(self, size: int) -> bytes:
        if self.size is not None and self._position >= self.size:
            return b""
        stream = self._stream or self._reconnected()
        while stream.position < self._position:
            self._skip(stream)
        data = stream.read(size)
        if not data and self.size is not None:
            raise Interrupted(f"it ended after {self._position} of {self.size} bytes")
        return data

    def _reconnected(self) -> Stream:
        self._stream = stream = self._connect(0 if self._seen is not None else self._position, self.version)
        changed = stream.version != self.version or (self.size is not None and stream.size not in (None, self.size))
        if self._seen is not None:
            again = xxhash.xxh3_64()
            while stream.position < self._position:
                again.update(self._skip(stream))
            changed |= again.digest() != self._seen.digest()
        if changed:
            self._drop()
            raise Failure(f"{self.name} {CHANGED}")
        return stream

    def _skip(self, stream: Stream) -> bytes:
        data = stream.read(min(HTTP_READ_BYTES, self._position - stream.position))
        if not data:
            raise Interrupted(f"it ended after {stream.position} bytes")
        return data

    def _drop(self) -> None:
        if (stream := getattr(self, "_stream", None)) is not None:
            stream.close()
        self._stream = None


class HttpStream:
    """One GET request for a file, from `start` on where the server can.

    Args:
        url: with or without credentials.
        name: of the file, for messages.
        start: the first byte that is wanted.
        version: ask for the part only if the file still has it; else for all of it.

    Raises:
        UserError: the server refuses, or doesn't have the file.
        Interrupted: no answer in time, or one that says to come back later.
    """

    def __init__(self, url: str, name: str, start: int = 0, version: str | None = None):
        import aiohttp

        self._name = name
        self._store: Any = filesystem("http")
        self._errors = (aiohttp.ClientError, OSError)
        self._broken: Interrupted | None = None
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version is not None and not version.startswith("W/"):
                headers["If-Range"] = version
        self._response: Any = self._wait_for(self._get, url, headers)
        try:
            self._check_status(start)
            self._check_encoding()
        except BaseException:
            self.close()
            raise

    def read(self, size: int) -> bytes:
        if self._broken is not None:
            raise self._broken
        data: bytes = self._wait_for(self._read, min(size, HTTP_READ_BYTES))
        self.position += len(data)
        return data

    def close(self) -> None:
        self._store.loop.call_soon_threadsafe(self._response.close)

    async def _get(self, url: str, headers: dict[str, str]) -> Any:
        import aiohttp
        import yarl

        session = await self._store.set_session()
        options = {**self._store.kwargs, "headers": {**self._store.kwargs.get("headers", {}), **headers}}
        try:
            # A URL that is encoded already stays as it is: a signature is of its very letters.
            target = yarl.URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)
            return await session.get(target, **options)
        except (aiohttp.InvalidURL, ValueError):
            raise UserError(f"{self._name} is not a URL that can be read") from None

    async def _read(self, size: int) -> bytes:
        now = asyncio.get_running_loop().time
        until = now() + READ_SECONDS
        data = bytearray()
        try:
            while len(data) < size:
                part = await asyncio.wait_for(self._response.content.read(size - len(data)), until - now())
                if not part:
                    break
                data += part
        except self._errors as error:
            # What came before the break is good; the break is told when more is asked for.
            self._broken = Interrupted(_reason(error))
            if not data:
                raise self._broken from None
        return bytes(data)

    def _check_status(self, start: int) -> None:
        status, headers = self._response.status, self._response.headers
        answer = f"the server answers {status} {self._response.reason}"
        self.version: str | None = headers.get("ETag") or headers.get("Last-Modified")
        self.size: int | None
        if status == 200:
            length = headers.get("Content-Length", "")
            self.position, self.size = 0, int(length) if length.isdecimal() else None
        elif status == 206:
            part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
            if part is None or int(part[1]) != start:
                raise Interrupted(f"{answer}, and another part than asked for")
            self.position, self.size = start, None if part[2] == "*" else int(part[2])
        elif status in (408, 425, 429) or status >= 500:
            raise Interrupted(answer)
        elif status in (404, 410):
            raise UserError(f"{self._name} is not there: {answer}")
        elif status in (401, 403, 407):
            raise UserError(f"{self._name} is not for everyone: {answer}; give a URL with valid credentials")
        elif status == 416:
            raise UserError(f"{self._name} ends before byte {start}")
        else:
            raise UserError(f"{self._name} can't be read: {answer}")

    def _check_encoding(self) -> None:
        encoding = self._response.headers.get("Content-Encoding", "identity")
        # Some servers call what lies there as .gz so; it is sent as it lies there.
        if encoding != "identity" and not self._response.url.path.endswith(COMPRESSED):
            raise UserError(
                f"{self._name} is sent as {encoding} by its server, which was asked not to: download the file, and "
                "give its path"
            )

    def _wait_for(self, function: Callable[..., Any], *arguments: Any) -> Any:
        from fsspec.asyn import sync

        try:
            return sync(self._store.loop, function, *arguments)
        except self._errors as error:
            raise Interrupted(_reason(error)) from None


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
            self._file = store.open(pinned, "rb", block_size=OBJECT_BLOCK_BYTES, cache_type="readahead")
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


def filesystem(scheme: str) -> Any:
    """Return fsspec's view of a kind of store, with time-outs, without caches, without attempts of its own.

    Raises UserError: its package isn't installed.
    """
    import fsspec

    if scheme == "http":
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=READ_SECONDS, sock_read=READ_SECONDS)
        client = {"timeout": timeout, "auto_decompress": False, "trust_env": True, "read_bufsize": HTTP_READ_BYTES}
        return fsspec.filesystem("http", client_kwargs=client)
    try:
        if scheme == "s3":
            settings = {
                "connect_timeout": READ_SECONDS,
                "read_timeout": READ_SECONDS,
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
    if isinstance(error, Interrupted):
        return error
    if isinstance(error, (UserError, Failure)):
        raise error
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
    return Interrupted(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {READ_SECONDS:.0f} s"
    text = " ".join((getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)).split())
    return text or type(error).__name__
