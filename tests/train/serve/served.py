"""A real server process with a small model, and how tests reach it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.exchange.new_checkpoint import write_new_checkpoint
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    width=48, layers=2, heads=4, key_value_heads=2, hidden_width=80, maximum_length=8192, tied_embeddings=False
)


def drawn_checkpoint(folder: Path, dataset: Path, config: TransformerConfig = CONFIG) -> Path:
    """Write a checkpoint of a model whose every parameter matters, with logits far from uniform."""
    tokenizer = load_tokenizer(dataset / "tokenizer")
    config = config.resolve(tokenizer.vocabulary_size)
    model = drawn_model(config)
    folder.mkdir()
    parameters = dict(model.named_parameters())
    # An end of document would end tests at random.
    parameters["head.weight"].data[tokenizer.end_of_document] = 0.0
    write_new_checkpoint(folder, config, tokenizer, lambda name: parameters[name].detach(), {"run": "drawn"})
    return folder


def drawn_model(config: TransformerConfig) -> Transformer:
    model = Transformer(config)
    initialise_weights(model, config, 0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter.data *= 3.0
    return model.eval()


@dataclass
class Served:
    process: subprocess.Popen
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / "tokenizer")

    def client(self, key: str = "none", **settings: Any) -> Any:
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **settings)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        result = answer.status, answer.read(), dict(answer.headers)
        connection.close()
        return result

    def health(self) -> dict[str, Any]:
        return json.loads(self.ask("GET", "/health")[1])

    def wait_idle(self, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while (state := self.health())["running"] or state["waiting"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.02)

    def memory(self) -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) * 1024


@contextmanager
def served(folder: Path, *settings: str) -> Iterator[Served]:
    """Start `headrace serve`; give it once it answers."""
    command = [sys.executable, "-m", "launch.command", "serve", f"source={folder}", "port=0", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, env=environment, text=True)
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", said(log))):
                assert process.poll() is None, said(log)
                time.sleep(0.02)
            yield Served(process, int(found[1]), folder)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert "Traceback" not in said(log), said(log)


def said(log: IO[str]) -> str:
    """Return all that a server has written, without moving where it writes."""
    return os.pread(log.fileno(), 1 << 24, 0).decode(errors="replace")
