"""`headrace serve`: an OpenAI-compatible service for a model, and a page to chat at."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from train.serve.application import Service
    from train.serve.settings import ServeConfig


def run(request: Request) -> int:
    """Serve until SIGTERM or Ctrl-C; returns 0."""
    from data_pipeline.foundation.configuration import register
    from train.chain_of_thought.answers import check_extract
    from train.chain_of_thought.strategy import StrategyConfig, check_strategy
    from train.serve.settings import ServeConfig, check_serve

    register("strategy_schema", StrategyConfig, group="strategy")
    composed = request.compose("serve", ServeConfig)
    if composed is None:
        return 0
    config = composed.value
    check_serve(config)
    check_extract(config.extract)
    if config.strategy is not None:
        check_strategy(config.strategy)
    packages()
    with listening(config.host, config.port) as listener, service_of(config) as service:
        asyncio.run(serve(service, listener))
    return 0


def packages() -> None:
    """Raise UserError where the packages of this verb are missing."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"`serve` needs {error.name}: pip install 'headrace[serve]'") from None


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket at an address, before anything is loaded. Raises UserError: it can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        reason = {98: "another program listens there", 48: "another program listens there"}.get(error.errno or 0)
        raise UserError(
            f"host={host} port={port} can't be listened at: {reason or error.strerror or error}; "
            "choose another port=…, or 0 for a free one"
        ) from None
    with listener:
        yield listener


@contextlib.contextmanager
def service_of(config: ServeConfig) -> Iterator[Service]:
    """Load what is served; give it, and end its engine afterwards."""
    from train.serve.application import Service
    from train.serve.metrics import Metrics

    name = config.name or Path(config.source).resolve().name
    metrics = Metrics()
    if config.backend != "headrace":
        from train.serve.other_engines import other_engine, vocabulary_of

        with other_engine(config, name) as upstream:
            metrics.watch("running", "requests that are answered", lambda: upstream.running)
            yield Service(config, name, vocabulary_of(Path(config.source)), metrics, upstream=upstream)
        return
    from train.exchange.hugging_face import special_token_ids
    from train.serve.engine import Engine
    from train.serve.writing import Writer
    from train.source import load_source

    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    loaded = load_source(Path(config.source), config.average)
    longest = loaded.model.config.maximum_length
    context = min(longest, 4096) if config.context is None else config.context
    if context > longest:
        raise UserError(f"context={context} is longer than the model's {longest}")
    ends = special_token_ids(loaded.tokenizer)["eos_token_id"]
    engine = Engine(
        loaded.model, frozenset(ends if isinstance(ends, list) else [ends]), config.slots, context, config.prefill,
        config.queue,
    )  # fmt: skip
    told(f"{loaded.folder}, step {loaded.step:,}: {config.slots} slots of {context:,} tokens take "
         f"{engine.slots.bytes / 1e6:,.0f} MB, allocated now; nothing else grows with requests")  # fmt: skip
    writer = Writer(engine, loaded.tokenizer, config.timeout, config.tokens)
    vocabulary = loaded.model.config.vocabulary_size
    del loaded
    metrics.watch("running", "sequences that hold a slot", lambda: engine.running)
    metrics.watch("waiting", "sequences that wait for a slot", lambda: engine.waiting)
    metrics.watch("slots", "sequences that can be continued together", lambda: config.slots)
    assert vocabulary is not None
    try:
        yield Service(config, name, vocabulary, metrics, writer=writer)
    finally:
        engine.stop()


async def serve(service: Service, listener: socket.socket) -> None:
    """Answer until told to stop; then refuse what is new, and let what runs end within its grace."""
    import uvicorn

    from train.serve.application import application

    config = service.config
    server = uvicorn.Server(
        uvicorn.Config(
            application(service), log_level="warning", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=int(config.grace) or 1, timeout_keep_alive=30, backlog=512,
        )
    )  # fmt: skip
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        told(f"{signal.Signals(number).name}: stopping; what runs has {config.grace:g} s")
        server.handle_exit(number, None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    host, port = listener.getsockname()[:2]
    told(f"{service.name} at http://{f'[{host}]' if ':' in host else host}:{port}/ (chat) and /v1 (API)"
         + ("" if config.api_key else "; no api_key is set: whoever reaches this address may ask"))  # fmt: skip
    await server.serve(sockets=[listener])


def told(text: str) -> None:
    from rich.markup import escape

    from data_pipeline.foundation.progress import say

    say(escape(text))


VERB = Verb(
    name="serve",
    summary="an OpenAI-compatible service for a model, and a page to chat at",
    run=run,
    groups=("strategy",),
    keys=(
        ("source", "a run's folder, a checkpoint or an exported model"),
        ("average=true", "the average of the weights, of a run with ema.decay"),
        ("host, port", "address to listen at; 127.0.0.1 and 8000 if left out"),
        ("api_key", "what clients must send as a bearer token"),
        ("backend", "headrace, or llamacpp or vllm behind the same interface"),
        ("slots, queue", "sequences continued together, and that may wait"),
        ("context", "most tokens of a prompt and its answer"),
        ("timeout, grace", "seconds for a request, and for what runs when the service is stopped"),
        ("threads", "of the processor"),
    ),
    examples=(
        "headrace serve source=runs/demo",
        "headrace serve source=runs/mine host=0.0.0.0 port=80 api_key=SECRET slots=32",
        "headrace serve source=models/smollm2 backend=llamacpp dtype=q8_0",
    ),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
