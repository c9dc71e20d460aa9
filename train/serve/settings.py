"""Settings of `headrace serve`."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.strategy import StrategyConfig

BACKENDS = ("headrace", "llamacpp", "vllm")


@dataclass
class ServeConfig:
    """What is served, to whom, and within which bounds.

    Args:
        source: a run's folder, a checkpoint or an exported Hugging Face folder.
        average: the average of the weights that training has kept (`ema.decay`).
        host: address to listen at; 127.0.0.1 is reached from this machine alone.
        port: 0 takes a free one.
        api_key: what a client must send as `Authorization: Bearer …`; None lets everyone in.
        name: of the model for clients; None takes the folder's.
        backend: `headrace`, our engine; `llamacpp` or `vllm`, which do the same behind the same checks.
        slots: sequences that are continued together; their cache is allocated at the start.
        context: most tokens of a prompt and what follows it; None takes the model's length, at most 4096.
        queue: sequences that may wait for a slot; more are refused with 429.
        timeout: seconds after which a request ends with an error.
        body_bytes: most bytes of a request.
        prefill: tokens of a long prompt that are read between two steps of the others.
        threads: of the processor; None leaves PyTorch's choice.
        grace: seconds that running requests get to end when the service is stopped.
        tokens: most tokens of an answer where a request doesn't say; None leaves it to the context.
        dtype: of weights in `llamacpp`: float32, float16 or q8_0.
        strategy: how chats are answered where a request doesn't say; None simply answers.
        extract: with a strategy, where the answer is in what was written.
    """

    source: str = "???"
    average: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    name: str | None = None
    backend: str = "headrace"
    slots: int = 8
    context: int | None = None
    queue: int = 64
    timeout: float = 300.0
    body_bytes: int = 4_000_000
    prefill: int = 256
    threads: int | None = None
    grace: float = 20.0
    tokens: int | None = None
    dtype: str = "float32"
    strategy: StrategyConfig | None = None
    extract: ExtractConfig = field(default_factory=ExtractConfig)


def check_serve(config: ServeConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.backend not in BACKENDS:
        raise UserError(f"backend={config.backend}: there are {', '.join(BACKENDS)}")
    if config.average and config.backend != "headrace":
        raise UserError(
            f"average=true with backend={config.backend}: export it with average=true, and serve the export"
        )
    if not 0 <= config.port < 65536:
        raise UserError(f"port={config.port} must be from 0 to 65535")
    for key in ("slots", "body_bytes", "prefill"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)} must be at least 1")
    if config.timeout <= 0 or config.grace < 0 or config.queue < 0:
        raise UserError("timeout must be above 0, grace and queue at least 0")
    for key in ("context", "tokens", "threads"):
        if (value := getattr(config, key)) is not None and value < 1:
            raise UserError(f"{key}={value} must be at least 1")
    if config.api_key == "":
        raise UserError("api_key is empty: leave it out, or give one")
