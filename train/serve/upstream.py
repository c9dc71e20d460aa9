"""Another engine's server behind our interface: requests that we have checked are handed on, answers handed back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse

from train.serve.errors import RequestError


class Upstream:
    """A server of this machine.

    Args:
        address: such as `http://127.0.0.1:9000`.
        model: its name there.
        most: requests at once; more are refused with 429.
        timeout: seconds for each.
        alive: whether it still runs.
        close: ends it.
    """

    def __init__(
        self, address: str, model: str, most: int, timeout: float, alive: Callable[[], bool], close: Callable[[], None]
    ):
        self.address, self.model, self.most, self.timeout = address, model, most, timeout
        self.alive, self.close = alive, close
        self.running = 0
        self._session: Any = None

    async def answer(self, path: str, body: dict[str, Any], streams: bool) -> Response:
        """Hand a request on. Raises RequestError: too many at once, or the engine can't be reached."""
        import aiohttp

        if self.running >= self.most:
            raise RequestError(429, "too many requests wait already; try again soon", code="queue_full")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.timeout))
        self.running += 1
        try:
            content = orjson.dumps(body | {"model": self.model})
            headers = {"Content-Type": "application/json"}
            response = await self._session.post(self.address + path, data=content, headers=headers)
            kind = response.headers.get("Content-Type", "application/json")
            if streams and response.status == 200:
                return StreamingResponse(self._chunks(response), media_type=kind)
            answer = await response.read()
        except TimeoutError:
            self.running -= 1
            raise RequestError(504, "the request took longer than the service gives it", code="timeout") from None
        except aiohttp.ClientError as error:
            self.running -= 1
            raise RequestError(503, f"the engine can't be reached: {error}", code="engine_failed") from None
        except BaseException:
            self.running -= 1
            raise
        self.running -= 1
        return Response(answer, response.status, media_type=kind)

    async def _chunks(self, response: Any) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            self.running -= 1
            response.close()
