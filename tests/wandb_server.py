"""A server that speaks as much of wandb's protocol as a run needs, and can be told to refuse, to fail or to hang."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Keeps the history of each run, by its id.

    Args:
        mood: `well`, `failing` (500 to everything), `forbidding` (401) or `hanging` (no answer while it is so).
    """

    daemon_threads = True

    def __init__(self, mood: str = "well"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood = mood
        self.healed = threading.Event()
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.known: set[str] = set()
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Those who hang up on a server that hangs are right."""


@contextmanager
def wandb_server(mood: str = "well") -> Iterator[WandbServer]:
    server = WandbServer(mood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.healed.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""

    def answer(self, content: Any, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def is_well(self) -> bool:
        if self.server.mood == "hanging":
            self.server.healed.wait(60)
            self.close_connection = True
            return False
        if self.server.mood in ("failing", "forbidding"):
            self.answer({"error": "not today"}, 500 if self.server.mood == "failing" else 401)
        return self.server.mood == "well"

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
        self.server.bodies.append(data)
        return data

    def do_GET(self) -> None:
        if self.is_well():
            self.answer({})

    def do_PUT(self) -> None:
        self.body()
        if self.is_well():
            self.answer({})

    def do_POST(self) -> None:
        data = self.body()
        if not self.is_well():
            return
        try:
            content = json.loads(data or b"{}")
        except ValueError:
            content = {}
        if self.path.endswith("/graphql"):
            return self.answer({"data": self.query(content.get("query", ""), content.get("variables") or {})})
        if found := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            sent = (content.get("files") or {}).get("wandb-history.jsonl", {})
            history, at = self.server.history.setdefault(found[1], []), sent.get("offset", 0)
            rows = [json.loads(row) for row in sent.get("content", [])]
            # As wandb's own: a line has its number, and what is sent again replaces what was there.
            history[at : at + len(rows)] = rows
        self.answer({"exitcode": None, "limits": {}})

    def query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name")
        asked = (re.search(r"(?:query|mutation)\s+(\w+)", query) or ["", ""])[1]
        if asked == "Viewer":
            viewer = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if asked == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if asked == "UpsertBucket":
            is_new = name not in self.server.known
            self.server.known.add(str(name))
            project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": f"id-{name}", "name": name, "displayName": name, "description": "", "config": "{}"}
            bucket |= {"sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        if asked == "RunResumeStatus":
            entity = {"id": "e", "name": "me"}
            return {"model": {"id": "m", "name": "p", "entity": entity, "bucket": self.resumed(str(name))}}
        if asked == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.server.url}/up/{file}"} for file in variables.get("files", [])]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return {}

    def resumed(self, name: str) -> dict[str, Any] | None:
        if name not in self.server.known:
            return None
        rows = self.server.history.get(name, [])
        bucket = {"id": f"id-{name}", "name": name, "displayName": name, "config": "{}", "tags": []}
        bucket |= {"summaryMetrics": json.dumps(rows[-1] if rows else {}), "wandbConfig": json.dumps({"t": 1})}
        bucket |= {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
        return bucket | {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
