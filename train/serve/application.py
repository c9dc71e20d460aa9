"""The HTTP service: who may ask, what is answered, and what is counted."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from train.chain_of_thought.strategy import StrategyConfig
from train.chain_of_thought.think import think
from train.sampling import SamplingConfig
from train.serve.answers import Form, usage_of
from train.serve.engine import Token
from train.serve.errors import RequestError, bad
from train.serve.metrics import Metrics
from train.serve.page import HEADERS, chat_page
from train.serve.prompts import chat_ids, completion_ids, template_of
from train.serve.requests import Ask, parse, read_body
from train.serve.settings import ServeConfig
from train.serve.upstream import Upstream
from train.serve.writing import EngineText, Writer, context_guard

DONE = b"data: [DONE]\n\n"
MAXIMUM_STRATEGY_TOKENS = 512


@dataclass
class Service:
    """What the endpoints share.

    Args:
        name: of the model.
        vocabulary: its ids are below.
        writer: of our engine; None where another engine answers.
        upstream: of the other engine.
    """

    config: ServeConfig
    name: str
    vocabulary: int
    metrics: Metrics
    writer: Writer | None = None
    upstream: Upstream | None = None

    def __post_init__(self) -> None:
        self.started = int(time.time())
        self.encoding = threading.Lock()

    def health(self, request: Request) -> Response:
        failed = self.writer.engine.failure is not None if self.writer else not self.upstream_alive()
        state: dict[str, Any] = {"status": "failed" if failed else "ok", "model": self.name}
        if self.writer:
            state |= {"running": self.writer.engine.running, "waiting": self.writer.engine.waiting}
        return as_json(state, 503 if failed else 200)

    def upstream_alive(self) -> bool:
        return self.upstream is not None and self.upstream.alive()

    def model(self) -> dict[str, Any]:
        context = self.writer.engine.context if self.writer else self.config.context
        return {"id": self.name, "object": "model", "created": self.started, "owned_by": "headrace", "context": context}

    async def models(self, request: Request) -> Response:
        self.admit(request)
        return as_json({"object": "list", "data": [self.model()]})

    async def one_model(self, request: Request) -> Response:
        self.admit(request)
        if request.path_params["name"] != self.name:
            raise RequestError(
                404, f"there is no model `{request.path_params['name']}` here", "model", "model_not_found"
            )
        return as_json(self.model())

    async def measures(self, request: Request) -> Response:
        self.admit(request)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self, request: Request) -> Response:
        return HTMLResponse(
            chat_page(self.name, self.config.api_key is not None, self.writer is not None), headers=HEADERS
        )

    def admit(self, request: Request) -> None:
        """Refuse who has no key, and pages of other sites, which a browser would let ask in the user's name."""
        if (origin := request.headers.get("origin")) and urlsplit(origin).netloc != request.headers.get("host"):
            raise RequestError(403, f"pages of {origin[:200]} may not ask here", code="foreign_origin")
        if self.config.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.config.api_key.encode()):
            raise RequestError(401, "a valid API key is needed: `Authorization: Bearer KEY`", code="invalid_api_key")

    async def body(self, request: Request) -> bytes:
        """Return a request's body. Raises RequestError: it is larger than allowed."""
        most, content = self.config.body_bytes, bytearray()
        too_large = RequestError(413, f"the body has more than {most} bytes", code="body_too_large")
        if (said := request.headers.get("content-length", "0")).isdigit() and int(said) > most:
            raise too_large
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise too_large
        except ClientDisconnect:
            raise RequestError(499, "the client has gone") from None
        return bytes(content)

    async def chat(self, request: Request) -> Response:
        return await self.answer(request, chat=True)

    async def completions(self, request: Request) -> Response:
        return await self.answer(request, chat=False)

    async def answer(self, request: Request, chat: bool) -> Response:
        self.admit(request)
        content = read_body(await self.body(request))
        ask = parse(content, chat, self.name, self.vocabulary)
        if self.upstream is not None:
            if ask.strategy is not None or ask.extract is not None:
                raise bad("strategy", "is served by backend=headrace alone")
            return await self.upstream.answer(request.url.path, content, ask.stream)
        assert self.writer is not None
        strategy = ask.strategy or (self.config.strategy if chat else None)
        if strategy is not None and asks_more(strategy):
            return await self.thought(request, ask, strategy)
        prompts = await asyncio.to_thread(self.encode, ask)
        form, writer = Form(ask, self.writer.piece, self.writer.raw), self.writer
        # What can be refused is, before a stream has said that all is well.
        for prompt in prompts:
            writer.room(prompt, ask.tokens)
        work = self.begun(ask, form, prompts) if ask.stream else self.whole(ask, form, prompts)
        return await unless_gone(request, work)

    async def begun(self, ask: Ask, form: Form, prompts: list[list[int]]) -> Response:
        """Return a stream once it has begun: until then what goes wrong still has a status."""
        assert self.writer is not None
        parts = self.writer.write(ask, prompts)
        return streamed(self.chunks(ask, form, prompts, await anext(parts), parts))

    def encode(self, ask: Ask) -> list[list[int]]:
        assert self.writer is not None
        tokenizer, context = self.writer.tokenizer, self.writer.engine.context
        with self.encoding:  # the tokenizer's switch for special tokens is one for all threads
            if ask.messages is not None:
                context_guard(sum(len(message["content"]) for message in ask.messages), context)
                return [chat_ids(tokenizer, ask.messages)]
            context_guard(max(map(len, ask.prompts)), context)
            return [completion_ids(tokenizer, prompt) for prompt in ask.prompts]

    def echo(self, ask: Ask, prompt: list[int], asked: str | list[int] | None) -> tuple[str, int]:
        """Return the text to repeat, and how many ids of the prompt it doesn't show."""
        assert self.writer is not None
        if not ask.echo:
            return "", 0
        return (asked, 1) if isinstance(asked, str) else (self.writer.tokenizer.decode(prompt), 0)

    async def whole(self, ask: Ask, form: Form, prompts: list[list[int]]) -> Response:
        assert self.writer is not None
        count = ask.count * len(prompts)
        texts, reasons = [""] * count, [""] * count
        tokens: list[list[Token]] = [[] for _ in range(count)]
        written = 0
        async with aclosing(self.writer.write(ask, prompts)) as parts:
            async for part in parts:
                texts[part.choice] += part.text
                tokens[part.choice] += part.tokens
                reasons[part.choice] = part.reason or ""
        choices = []
        for index in range(count):
            prompt = prompts[index // ask.count]
            before, hidden = self.echo(ask, prompt, ask.prompts[index // ask.count] if ask.prompts else None)
            echoed = len(prompt) if ask.echo and ask.logprobs is not None else 0
            written += len(tokens[index]) - echoed
            choices.append(
                form.choice(index, before + texts[index], tokens[index][min(hidden, echoed) :], reasons[index])
            )
        self.metrics.tokens(sum(map(len, prompts)), written)
        return as_json(form.whole(choices, usage_of(sum(map(len, prompts)), written)))

    async def chunks(
        self, ask: Ask, form: Form, prompts: list[list[int]], first: Any, parts: Any
    ) -> AsyncIterator[bytes]:
        written, begun, offsets = 0, set(), {}
        try:
            part = first
            while part is not None:
                index, tokens = part.choice, part.tokens
                prompt = prompts[index // ask.count]
                if index not in begun:
                    begun.add(index)
                    before, hidden = self.echo(ask, prompt, ask.prompts[index // ask.count] if ask.prompts else None)
                    echoed = len(prompt) if ask.echo and ask.logprobs is not None else 0
                    written -= echoed
                    offsets[index] = 0
                    if ask.messages is not None:
                        yield event(form.chunk([form.delta(index, "", [], None, role="assistant")]))
                    elif before:
                        yield event(form.chunk([form.delta(index, before, tokens[min(hidden, echoed) : echoed], None)]))
                        offsets[index], tokens, written = len(before), tokens[echoed:], written + echoed
                written += len(tokens)
                if part.text or tokens:
                    yield event(form.chunk([form.delta(index, part.text, tokens, None, offsets[index])]))
                    offsets[index] += len(part.text)
                if part.reason:
                    yield event(form.chunk([form.delta(index, None, [], part.reason)]))
                part = await anext(parts, None)
            self.metrics.tokens(sum(map(len, prompts)), written)
            if ask.usage:
                yield event(form.chunk([], usage_of(sum(map(len, prompts)), written)))
            yield DONE
        except RequestError as error:
            yield event(error.body())
        finally:
            await parts.aclose()

    async def thought(self, request: Request, ask: Ask, strategy: StrategyConfig) -> Response:
        """Answer the last message by a strategy: the steps as `reasoning_content`, the answer as `content`."""
        assert self.writer is not None and ask.messages is not None
        if ask.count != 1 or ask.logprobs is not None:
            raise bad("strategy", "goes with `n`: 1 and without `logprobs`")
        if ask.messages[-1]["role"] != "user":
            raise bad("messages", "must end with the user's, which a strategy answers")
        question, tokenizer = ask.messages[-1]["content"], self.writer.tokenizer
        templated = template_of(tokenizer) is not None
        begin = (await asyncio.to_thread(self.encode, ask))[0] if templated else [tokenizer.end_of_document]
        tokens = min(ask.tokens or self.config.tokens or MAXIMUM_STRATEGY_TOKENS, self.writer.room(begin, None))
        sampling = SamplingConfig(tokens, ask.temperature, ask.top_k, ask.top_p, ask.seed, ask.stop)
        model = EngineText(self.writer, begin)
        prompt = "" if templated else f"Q: {question}\nA:"
        work = asyncio.to_thread(
            think, model, [prompt], [question], strategy, ask.extract or self.config.extract, sampling  # type: ignore[arg-type]
        )  # fmt: skip
        form = Form(ask, self.writer.piece, self.writer.raw)

        async def thinking() -> Response:
            try:
                [thought] = await work
            finally:
                model.cancel()
            usage = usage_of(model.read, model.tokens)
            self.metrics.tokens(model.read, model.tokens)
            answer = thought.answer or ""
            if not ask.stream:
                choice = form.choice(0, answer, [], "stop")
                choice["message"]["reasoning_content"] = thought.text
                return as_json(form.whole([choice], usage))

            async def chunks() -> AsyncIterator[bytes]:
                yield event(form.chunk([form.delta(0, "", [], None, role="assistant")]))
                yield event(form.chunk([form.delta(0, None, [], None, reasoning_content=thought.text)]))
                yield event(form.chunk([form.delta(0, answer, [], None)]))
                yield event(form.chunk([form.delta(0, None, [], "stop")]))
                if ask.usage:
                    yield event(form.chunk([], usage))
                yield DONE

            return streamed(chunks())

        return await unless_gone(request, thinking())


def asks_more(strategy: StrategyConfig) -> bool:
    """Tell whether a strategy does anything but ask."""
    return bool(strategy.trigger or strategy.answer_trigger or strategy.decompose or strategy.samples > 1)


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Return what work gives, or leave it as soon as the client has gone."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        return Response(status_code=499)
    finally:
        for task in (answer, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def streamed(chunks: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def as_json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def refused(request: Request, error: Exception) -> Response:
    """Say what was wrong."""
    assert isinstance(error, RequestError)
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status)
    return as_json(error.body(), error.status, headers)


def not_here(request: Request, error: Exception) -> Response:
    """Say of a path or method that there is none."""
    assert isinstance(error, HTTPException)
    what = "takes no" if error.status_code == 405 else "isn't a path here for"
    message = (
        f"{request.url.path[:200]} {what} {request.method[:20]}" if error.status_code in (404, 405) else error.detail
    )
    return refused(request, RequestError(error.status_code, message)) if not error.headers else as_json(
        RequestError(error.status_code, message).body(), error.status_code, dict(error.headers)
    )  # fmt: skip


def application(service: Service) -> Callable[..., Awaitable[None]]:
    """Return the ASGI application."""
    app = Starlette(
        routes=[
            Route("/", service.page, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/metrics", service.measures, methods=["GET"]),
            Route("/v1/models", service.models, methods=["GET"]),
            Route("/v1/models/{name:path}", service.one_model, methods=["GET"]),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.completions, methods=["POST"]),
        ],
        exception_handlers={RequestError: refused, HTTPException: not_here},
    )
    return service.metrics.around(app)
