"""A file on an http server, as one answer that goes on from any byte the server can start at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from data_pipeline.foundation import remote
from data_pipeline.foundation.errors import UserError, printable
from data_pipeline.foundation.remote import Interrupted, reason_of

READ_BYTES = 1 << 18
COMPRESSED = (".gz", ".zst", ".xz")


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
        self._store: Any = _web()
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
        data: bytes = self._wait_for(self._read, min(size, READ_BYTES))
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
            return await asyncio.wait_for(session.get(target, **options), remote.READ_SECONDS)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError):
            raise UserError(f"{self._name} is not a URL that can be read") from None

    async def _read(self, size: int) -> bytes:
        now = asyncio.get_running_loop().time
        until = now() + remote.READ_SECONDS
        data = bytearray()
        try:
            while len(data) < size:
                part = await asyncio.wait_for(self._response.content.read(size - len(data)), until - now())
                if not part:
                    break
                data += part
        except self._errors as error:
            # What came before the break is good; the break is told when more is asked for.
            self._broken = Interrupted(reason_of(error))
            if not data:
                raise self._broken from None
        return bytes(data)

    def _check_status(self, start: int) -> None:
        status, headers = self._response.status, self._response.headers
        answer = f"the server answers {status} {printable(self._response.reason or '')}".strip()
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
            raise Interrupted(reason_of(error)) from None


def _web() -> Any:
    """Return fsspec's session with the web, which also knows the user's settings for it (headers, proxies)."""
    import aiohttp
    import fsspec

    # The time for each answer and each read is taken here: a whole file may take any time.
    no_timeout = aiohttp.ClientTimeout(total=None)
    client = {"timeout": no_timeout, "auto_decompress": False, "trust_env": True, "read_bufsize": READ_BYTES}
    return fsspec.filesystem("http", client_kwargs=client)
