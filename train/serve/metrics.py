"""What Prometheus reads: requests by endpoint and status, their seconds, tokens, and what runs and waits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = {"registry": self._registry, "namespace": "headrace"}
        self._requests = Counter("requests", "answered, by path and status", ["path", "status"], **names)  # type: ignore[arg-type]
        self._seconds = Histogram("request_seconds", "to the last byte", ["path"], buckets=SECONDS, **names)  # type: ignore[arg-type]
        self._first = Histogram("first_byte_seconds", "to the answer's first byte", ["path"], buckets=SECONDS, **names)  # type: ignore[arg-type]
        self._read = Counter("prompt_tokens", "read, of requests that ended well", **names)  # type: ignore[arg-type]
        self._written = Counter("completion_tokens", "written, of requests that ended well", **names)  # type: ignore[arg-type]

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a figure as it is when it is read."""
        Gauge(name, what, registry=self._registry, namespace="headrace").set_function(value)

    def tokens(self, read: int, written: int) -> None:
        self._read.inc(read)
        self._written.inc(written)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)

    def around(self, app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """Return an ASGI application that counts what another answers."""

        async def counting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            started, status = time.monotonic(), "none"
            path = scope["path"] if scope["path"] in PATHS else "other"

            async def sent(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                    self._first.labels(path).observe(time.monotonic() - started)
                await send(message)

            try:
                await app(scope, receive, sent)
            finally:
                self._requests.labels(path, status).inc()
                self._seconds.labels(path).observe(time.monotonic() - started)

        return counting
