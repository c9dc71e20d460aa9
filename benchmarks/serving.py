"""Decode speed of the serving engine beside Transformers' `generate` and llama.cpp, for one model, as ratios.

`python -m benchmarks.serving CHECKPOINT [PROMPT_TOKENS] [TOKENS]`: a checkpoint such as `headrace import` makes of
SmolLM2; 1 and 8 sequences, greedy, two threads, in turn in one process. Transformers reads an export of the same
weights; llama.cpp (`pip install xllamacpp`) GGUF files of them.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.rounds import compare

THREADS, ROUNDS, LLAMACPP = 2, 3, ("float32", "float16", "q8_0")


def serving_lines(checkpoint: Path, prompt_tokens: int = 64, tokens: int = 96) -> Iterator[str]:
    """Yield a line for each pair that is compared."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from train.exchange.export import ExportConfig, export
    from train.sampling import SamplingConfig
    from train.serve.engine import Engine, Sequence
    from train.source import load_source

    torch.set_num_threads(THREADS)
    loaded = load_source(checkpoint)
    text = "The river rises in the hills, and on its way to the sea it turns the wheels of forty mills. " * 20
    prompt = loaded.tokenizer.encode(text)[:prompt_tokens]
    engine = Engine(loaded.model, frozenset(), 8, prompt_tokens + tokens + 1)

    def ours(count: int) -> int:
        told: list[queue.Queue[object]] = [queue.Queue() for _ in range(count)]
        sampling = SamplingConfig(temperature=0.0)
        engine.submit([Sequence(prompt, sampling, tokens, at.put) for at in told])
        for at in told:
            while not isinstance(at.get(), str):
                pass
        return count * tokens

    with tempfile.TemporaryDirectory() as folder:
        export(ExportConfig(str(checkpoint), f"{folder}/hf"))
        generate = transformers_generate(Path(folder) / "hf", prompt, tokens)
        for count in (1, 8):
            done = compare(partial(ours, count), partial(generate, count), ROUNDS)
            yield done.line(f"serve, {count} at once, fp32", "tokens/s", "Transformers")
        del generate
        try:
            import xllamacpp  # noqa: F401
        except ImportError:
            yield "llama.cpp: left out, pip install xllamacpp"
            return
        for dtype in LLAMACPP:
            export(ExportConfig(str(checkpoint), f"{folder}/{dtype}.gguf", format="gguf", dtype=dtype))
            complete, close = llamacpp_complete(Path(folder) / f"{dtype}.gguf", prompt, tokens)
            for count in (1, 8):
                done = compare(partial(ours, count), partial(complete, count), ROUNDS)
                yield done.line(f"serve fp32, {count} at once", "tokens/s", f"llama.cpp {dtype}")
            close()
    engine.stop()


def transformers_generate(folder: Path, prompt: list[int], tokens: int) -> Callable[[int], int]:
    """Return what writes for a number of sequences in one batch, as fast as `generate` does by itself."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(count: int) -> int:
        ids = torch.tensor([prompt] * count)
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        assert written.shape[1] == len(prompt) + tokens
        return count * tokens

    return generate


def llamacpp_complete(path: Path, prompt: list[int], tokens: int) -> tuple[Callable[[int], int], Callable[[], None]]:
    """Return what asks llama.cpp's server for a number of sequences at once, and what ends it."""
    from train.serve.other_engines import llamacpp
    from train.serve.settings import ServeConfig

    upstream = llamacpp(ServeConfig(slots=8, context=512, threads=THREADS), path, "model")

    def one(_: int) -> int:
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        request = urllib.request.Request(
            f"{upstream.address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)["tokens_predicted"]

    def complete(count: int) -> int:
        with ThreadPoolExecutor(count) as pool:
            return sum(pool.map(one, range(count)))

    return complete, upstream.close


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for line in serving_lines(Path(sys.argv[1]), *map(int, sys.argv[2:4])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
