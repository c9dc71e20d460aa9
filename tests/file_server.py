"""A real HTTP server on 127.0.0.1 whose files can be told to fail, stall, break off or change, request by request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """A file, and how it is served.

    Args:
        content: its bytes.
        ranges: whether parts of it are sent when asked for.
        tag: its ETag, if any.
        says_length: whether its length is sent; without, the end of the connection is the end of the file.
        faults: what goes wrong, one a request: `status N`, `cut N` or `stall N` (after N bytes of the answer),
            `trickle` (a byte now and then), `fine`.
        later: contents that take the file's place (with tags of their own), one after each request.
        headers: more of them.
    """

    content: bytes
    ranges: bool = True
    tag: str | None = '"1"'
    says_length: bool = True
    faults: list[str] = field(default_factory=list)
    later: list[tuple[bytes, str | None]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.ranges_asked: list[str | None] = []
        self.paths_asked: list[str] = []
        self.over = threading.Event()

    def serve(self, name: str, content: bytes, **how: object) -> str:
        """Serve a file from now on; return its URL."""
        self.files[f"/{name}"] = Served(content, **how)  # type: ignore[arg-type]
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def serve_folder(self, name: str, folder: Path) -> str:
        """Serve what is in a folder, as it is now; return the folder's URL."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.serve(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        self.server.ranges_asked.append(self.headers.get("Range"))
        self.server.paths_asked.append(self.path)
        served = self.server.files.get(self.path.partition("?")[0])
        fault, _, number = (served.faults.pop(0) if served and served.faults else "fine").partition(" ")
        if served is None:
            self.send_error(404)
            return
        if fault == "status":
            self.send_response(int(number))
            for name, value in {"Content-Length": "0", **served.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        content, tag = served.content, served.tag
        if served.later:
            served.content, served.tag = served.later.pop(0)
        self._send(served, content, tag, fault, int(number or 0))

    def _send(self, served: Served, content: bytes, tag: str | None, fault: str, after: int) -> None:
        asked, only_if = self.headers.get("Range"), self.headers.get("If-Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked and served.ranges and only_if in (None, tag):
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start:]
        else:
            self.send_response(200)
            body = content
        if tag:
            self.send_header("ETag", tag)
        if served.says_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "trickle":
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                if self.server.over.wait(0.03):
                    break
        self.wfile.write(body[:after] if fault in ("cut", "stall") else body)
        self.wfile.flush()
        if fault == "stall":
            self.server.over.wait()
        self.close_connection = self.close_connection or fault != "fine"

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@contextmanager
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
