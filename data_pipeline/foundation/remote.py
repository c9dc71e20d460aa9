"""Reading a file from a server that may stall, break off, be away for a while, or change the file in the meantime."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import xxhash

from data_pipeline.foundation.errors import Failure, printable

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; twice as long before each further one, a quarter of a minute all in all."""
READ_SECONDS = 60.0
"""Without an answer, or for one read: whatever takes longer is broken off and tried again."""
PROGRESS_BYTES = 1 << 16
"""After so many the attempts are counted anew: a long download may break more often than ATTEMPTS."""
READ_THROUGH_BYTES = 1 << 18
"""Up to so far ahead, reading on is cheaper than a new request."""

CHANGED = "has changed on the server while it was read: start the same command again"

Result = TypeVar("Result")


class Interrupted(Exception):
    """The server could not be reached, or the stream broke: worth another attempt."""


class GivenUp(Failure):
    """There have been enough attempts."""


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
    """Waits between attempts, ever longer, until there have been enough of them.

    Args:
        name: of the file, for messages.
        done: what is attempted, for messages.
    """

    def __init__(self, name: str, attempts: int = ATTEMPTS, done: str = "read"):
        self._name, self._attempts, self._done = name, attempts, done
        self._failed = 0
        self._bytes = 0

    def progress(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= PROGRESS_BYTES:
            self._failed = 0

    def wait(self, error: Interrupted) -> None:
        """Wait before the next attempt. Raises GivenUp: there have been enough."""
        self._failed += 1
        self._bytes = 0
        if self._failed >= self._attempts:
            raise GivenUp(
                f"{self._name} can't be {self._done}: {error}; tried {self._attempts} times. Check the network and the "
                "server, then start the same command again"
            ) from None
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (self._failed - 1))


class RemoteFile(io.RawIOBase):
    """A file on a server as one unbroken file.

    Args:
        name: for messages.
        connect: opens the stream at a byte, if the file still has that version.
        start: the first byte to read.
        attempts: before the server is given up.

    Raises:
        UserError: the file is missing or forbidden.
        Failure: the server can't be reached, or the file has changed since it was opened; from reading, too.
    """

    def __init__(
        self, name: str, connect: Callable[[int, str | None], Stream], start: int = 0, attempts: int = ATTEMPTS
    ):
        self.name = name
        self._connect = connect
        self._position = start
        self._patience = Patience(name, attempts)
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
        data = stream.read(min(READ_THROUGH_BYTES, self._position - stream.position))
        if not data:
            raise Interrupted(f"it ended after {stream.position} bytes")
        return data

    def _drop(self) -> None:
        if (stream := getattr(self, "_stream", None)) is not None:
            stream.close()
        self._stream = None


def reason_of(error: BaseException) -> str:
    """Return why something was interrupted, in a few words that hold no credentials."""
    if isinstance(error, TimeoutError):
        return f"no answer within {READ_SECONDS:g} s"
    if hasattr(error, "request_info"):
        return type(error).__name__  # whose own words repeat the URL as it was given
    return printable(" ".join((getattr(error, "strerror", None) or str(error)).split())) or type(error).__name__
