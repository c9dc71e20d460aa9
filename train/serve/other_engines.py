"""Engines of others behind our interface: llama.cpp in this process, vLLM in one of its own.

Of a run or a checkpoint they get an export, made beside and removed at the end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.exchange.export import ExportConfig, export
from train.serve.settings import ServeConfig
from train.serve.upstream import Upstream

PACKAGES = {"llamacpp": "xllamacpp", "vllm": "vllm"}
START_SECONDS = 900


@contextlib.contextmanager
def other_engine(config: ServeConfig, name: str) -> Iterator[Upstream]:
    """Start another engine; give what hands requests to it.

    Raises:
        UserError: its package is missing, or it can't take this model.
        Failure: it doesn't start.
    """
    package = PACKAGES[config.backend]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"backend={config.backend} needs {package}: pip install {package}")
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        model = exported(config, Path(folder))
        upstream = (llamacpp if config.backend == "llamacpp" else vllm)(config, model, name)
        try:
            yield upstream
        finally:
            upstream.close()


def exported(config: ServeConfig, folder: Path) -> Path:
    """Return the model as the engine reads it: the source itself where it already is, else a proven export."""
    source = Path(config.source)
    if config.backend == "llamacpp":
        if source.suffix == ".gguf":
            return source
        output = folder / "model.gguf"
        export(ExportConfig(str(source), str(output), format="gguf", dtype=config.dtype))
        return output
    if (source / "config.json").is_file():
        return source
    export(ExportConfig(str(source), str(folder / "model"), dtype="bfloat16"))
    return folder / "model"


def vocabulary_of(source: Path) -> int:
    """Return a bound on token ids. Raises UserError: the source means no model."""
    if source.suffix == ".gguf":
        return 1 << 31
    if (source / "tokenizer.json").is_file():
        return load_tokenizer(source).vocabulary_size
    from train.exchange.checkpoint_source import open_source

    return open_source(source).config.vocabulary_size or 1 << 31


def llamacpp(config: ServeConfig, model: Path, name: str) -> Upstream:
    """Start llama.cpp's server on a port of its own, in threads of this process."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.hostnames, parameters.port = ["127.0.0.1"], free_port()
    parameters.model_alias = {name}
    parameters.n_parallel = config.slots
    parameters.n_ctx = (config.context or 4096) * config.slots
    if config.threads is not None:
        parameters.cpuparams.n_threads = config.threads
    try:
        server = xllamacpp.Server(parameters)
    except Exception as error:  # whatever the engine says of the file
        raise Failure(f"llama.cpp can't serve {model}: {error}") from None
    address = f"http://127.0.0.1:{parameters.port}"
    wait_for(f"{address}/health", lambda: True)
    return Upstream(
        address, name, config.slots + config.queue, config.timeout, lambda: answers(f"{address}/health"),
        lambda: shut(server),
    )  # fmt: skip


def shut(server: object) -> None:
    for method in ("shutdown", "stop", "close"):
        if callable(end := getattr(server, method, None)):
            end()
            return


def vllm(config: ServeConfig, model: Path, name: str) -> Upstream:
    """Start `vllm serve` as a process that ends with this one."""
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(config.slots),
        *(["--max-model-len", str(config.context)] if config.context else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=sys.stderr)

    def close() -> None:
        process.terminate()
        try:
            process.wait(config.grace + 10)
        except subprocess.TimeoutExpired:
            process.kill()

    try:
        wait_for(f"http://127.0.0.1:{port}/health", lambda: process.poll() is None)
    except BaseException:
        close()
        raise
    most = config.slots + config.queue
    return Upstream(f"http://127.0.0.1:{port}", name, most, config.timeout, lambda: process.poll() is None, close)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def wait_for(url: str, alive: object) -> None:
    """Wait until a server is ready. Raises Failure: it ends first, or takes too long."""
    assert callable(alive)
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if not alive() or time.monotonic() > deadline:
            raise Failure("the engine did not start; what it said stands above")
        time.sleep(0.2)
