"""Where files lie: paths, http(s) URLs, objects in S3 and Google Cloud Storage; found and streamed through fsspec.

Nothing but these schemes is opened: `pipe:` would run a command, and chained URLs reach all that fsspec can.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from data_pipeline.foundation.errors import UserError, printable
from data_pipeline.foundation.files import digest_of
from data_pipeline.foundation.http_stream import HttpStream
from data_pipeline.foundation.object_store import ObjectStream, find_objects
from data_pipeline.foundation.remote import ATTEMPTS, RemoteFile

SCHEMES = ("file", "http", "https", "s3", "gs")
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Found:
    """A file that is there.

    Args:
        location: to open it by.
        bytes: as stored; 0 where a server doesn't say.
    """

    location: str
    bytes: int


def find(pattern: str) -> list[Found]:
    """Return the files that a path, a URL or a glob pattern names, sorted.

    `**` goes through folders, also those behind links, but into none twice. A path with brackets that exists is taken
    literally. For an http(s) URL the answer is the file itself.

    Raises:
        UserError: a scheme that isn't allowed, a pattern for http, or a URL that is missing or forbidden.
        Failure: a server can't be reached.
    """
    scheme, rest = split_scheme(pattern)
    if scheme == "file":
        names = [rest] if os.path.isfile(rest) else sorted(set(filter(os.path.isfile, _glob(rest))))
        return [Found(name, os.path.getsize(name)) for name in names]
    if scheme in ("http", "https"):
        if "*" in rest.partition("?")[0]:
            raise UserError(f"{shown(pattern)}: http servers can't be searched by a pattern; give the URL of each file")
        with _remote_file(pattern, 0) as file:
            return [Found(pattern, file.size or 0)]
    return [Found(f"{scheme}://{name}", size) for name, size in sorted(find_objects(scheme, rest).items())]


def identity(location: str) -> str:
    """Return what changes when a file's content does: a hash of it, or for a URL what its server vouches for.

    Raises:
        UserError: the file is missing or forbidden.
        Failure: a server can't be reached.
    """
    if split_scheme(location)[0] != "file":
        with _remote_file(location, 0) as file:
            if file.version is not None:
                return f"{file.version},{file.size}"
    with open_location(location) as content:
        try:
            return digest_of(content).hexdigest()
        except OSError as error:
            raise UserError(f"{shown(location)} can't be read: {error.strerror or error}") from None


def open_location(location: str, start: int = 0, attempts: int = ATTEMPTS) -> BinaryIO:
    """Open a file for reading from byte `start` on, buffered.

    A stream from a server that breaks off or stalls goes on at the byte where it did, after a wait that doubles with
    every attempt. Where the server can't send a part, what was delivered is read again and skipped. It can also be
    used to jump to and fro, as readers of Parquet do, which costs a request each time.

    Args:
        attempts: without progress, before a server is given up.

    Raises:
        UserError: the file is missing or forbidden, now or when a broken stream is taken up again.
        Failure: a server can't be reached in a bounded number of attempts, or the file has changed while it was read;
            from reading, too.
    """
    scheme, path = split_scheme(location)
    if scheme != "file":
        return io.BufferedReader(_remote_file(location, start, attempts), BUFFER_BYTES)
    try:
        file = open(path, "rb", buffering=BUFFER_BYTES)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{shown(location)} can't be read: {error.strerror}") from None
    file.seek(start)
    return file


def shown(location: str) -> str:
    """Return a location as it may stand in a message or a manifest: on one line, without passwords and signatures."""
    if "://" in location:
        location = re.sub(r"^([\w+.-]+://)[^/?#]*@", r"\1", location)
        if location.lower().startswith("http"):
            location = re.sub(r"[?#].*", "?…", location, flags=re.DOTALL)
    return printable(location)


def require_local(key: str, path: str) -> str:
    """Return a path of this machine that a setting names.

    Raises:
        UserError: it is a URL, which would otherwise become folders with odd names.
    """
    try:
        scheme, _ = split_scheme(path)
    except UserError as error:
        raise UserError(f"{key}={error}") from None
    if scheme != "file" or re.match(r"file:", path, re.IGNORECASE):
        raise UserError(f"{key}={shown(path)}: a path on this machine is needed, not a URL")
    return path


def file_name(location: str) -> str:
    """Return the last part of a location's path, without what follows it in a URL."""
    scheme, path = split_scheme(location)
    return (urllib.parse.urlsplit(location).path if scheme in ("http", "https") else path).rpartition("/")[2]


def split_scheme(location: str) -> tuple[str, str]:
    """Return a location's scheme, `file` for a plain path, and what follows it.

    Raises:
        UserError: a scheme that isn't allowed, or a backend that isn't installed.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::|:)(.*)", location, re.DOTALL)
    if match is None or os.path.lexists(location):
        return "file", location
    scheme, separator, rest = match[1].lower(), match[2], match[3]
    if separator == "::" or "::" in re.sub(r"^[^/]*\[[^]/]*\]", "", rest):
        raise UserError(f"{shown(location)}: chained URLs (`::`) are not read; {_ALLOWED}")
    if separator == ":" and scheme != "pipe":
        return "file", location
    if scheme not in SCHEMES:
        raise UserError(f"{shown(location)}: the scheme `{match[1]}:` is not read; {_ALLOWED}")
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise UserError(f"{shown(location)}: a file of another host can't be read; write file:///PATH")
        return scheme, urllib.parse.unquote(slash + path)
    return scheme, rest


_ALLOWED = f"files may lie at a path or under {', '.join(f'{scheme}://' for scheme in SCHEMES)}"


def _remote_file(location: str, start: int, attempts: int = ATTEMPTS) -> RemoteFile:
    scheme, path = split_scheme(location)
    if scheme in ("http", "https"):
        name = shown(location)
        return RemoteFile(name, lambda at, version: HttpStream(location, name, at, version), start, attempts)
    return RemoteFile(location, lambda at, version: ObjectStream(scheme, path, at), start, attempts)


def _glob(pattern: str) -> Iterator[str]:
    """Yield what a pattern matches, as `glob.glob` does, but go into no folder twice: links may lead in circles."""
    parts = [part for part in pattern.split("/") if part]
    # Two `**` behind one another mean the same as one.
    parts = [part for part, before in zip(parts, ["", *parts]) if (part, before) != ("**", "**")]
    return _matches("/" if pattern.startswith("/") else "", parts, set())


def _matches(folder: str, parts: list[str], entered: set[tuple[int, int]]) -> Iterator[str]:
    if not parts:
        yield folder
        return
    part, *rest = parts
    if part == "**":
        if not os.path.isdir(folder or "."):
            return
        status = os.stat(folder or ".")
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        yield from _matches(folder, rest or ["*"], set())
        for name in _names(folder, "*"):
            if os.path.isdir(path := os.path.join(folder, name)):
                yield from _matches(path, parts, entered)
    elif re.search(r"[*?\[]", part):
        for name in _names(folder, part):
            if not rest or os.path.isdir(os.path.join(folder, name)):
                yield from _matches(os.path.join(folder, name), rest, entered)
    elif os.path.lexists(path := os.path.join(folder, part)):
        yield from _matches(path, rest, entered)


def _names(folder: str, pattern: str) -> list[str]:
    """Return the sorted names in a folder that match; those with a leading dot only where the pattern has one."""
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:  # no folder, or a closed one
        return []
    return [name for name in fnmatch.filter(names, pattern) if pattern.startswith(".") or not name.startswith(".")]
