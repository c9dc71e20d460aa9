"""`python -m benchmarks.training DATASET [--sizes nano,30m,120m] [--ranks 1,2] [--contestants …] [--rounds 5]`

One step of training at a time, our trainer's beside the same model's in a plain PyTorch loop, under Transformers'
`Trainer` and in litgpt; on two processes DDP and FSDP2 too. All stand ready in processes of their own and take turns,
so that a machine whose speed drifts is fair to all; ratios are to the plain loop, round by round. MFU is against a
large float32 matrix product on as many threads, measured before and after each turn for the same reason. The parts of
a step are of a round of their own. `--contestants` is a list such as plain,ours:zero=1+compile=true,plain:env.NAME=1. A
peer that isn't installed is left out; `--peers FOLDER` looks there as well: `pip install --no-deps --target FOLDER
litgpt lightning lightning-utilities torchmetrics jsonargparse typeshed-client docstring-parser`.

What was tried on two AVX-512 cores, forward and backward on 2,048 tokens of width 384 with a vocabulary of 32,768:

- kept: the loss in the memory of its last chunk (the product that makes 512 rows of logits takes 90 ms, in fresh memory
  121); log_softmax and exp in place (24 ms for those rows) where logsumexp came before (72); a norm with a gradient of
  its own (2.4 ms for 5.4); a rotation in half the passes (2.6 ms for 4.9); clipping in the update's own pass, and none
  of what is short enough; no copy of all gradients on one process; stage 1 without flat copies on CPUs.
- kept: at least 512 rows of logits at once (1,050 ms for 1,160 with 166, of 1,024 rows of width 768 and a vocabulary of
  50,304).
- without gain: the loss in blocks of 4 to 16 rows that fit the cache (1,395 to 1,416 ms for 1,368); chunks of 2^24
  logits (1,289 ms for 1,276 at 2^23; 1,300 at 2^22, 1,566 at 2^21); a gradient of our own for SwiGLU (8.0 ms for 8.0);
  THP_MEM_ALLOC_ENABLE=1 (at 30m 556 tokens/s for 551); compile=true on a CPU (553 for 551, with 8 % less memory).
- kept: freed memory stays, in huge pages (cluster.huge_pages: at 120m 1.11 times in three rounds, 1.11 to 1.12; by the
  C library's variables 1.25 in four, 1.12 to 1.46, and without huge pages 1.10, 0.97 to 1.12); the head's gradient made
  by its first chunk, not filled with zeros before, and scaled in place.
- without gain at 120m: a tied embedding's gradient of only the rows that were read (10 ms of zeros less, but autograd
  adds them to the head's in a copy); causal attention in blocks of 64 to 256 rows by batched products (16.0 and 36.1 ms
  forward and backward for PyTorch's 15.4 and 35.7, 4 sequences of 12 heads) or by halves, down to 64 rows, by PyTorch's
  own kernel, whose sums are then joined (15.5 and 32.5 for 15.7 and 37.8, and slower at other lengths); oneDNN's
  products in the place of MKL's (202 to 361 GFLOP/s for 347 to 388); a chunk's logits by panels of the vocabulary (324
  to 334 GFLOP/s for 326) or turned round (373, and softmax 51 ms for 10); KMP_BLOCKTIME=0 (0.99).
- a choice: compile=true (three runs of 5 to 7 rounds: 1.02, 1.04 and 1.01, with 11 % less memory, for a compiler and
  some time at the first start); compiled=model (1.01, with 10 % less, and longer to compile).
- worse: OMP_PROC_BIND=true (at 120m 0.57).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import Setup
from train.hardware import measured_peak
from train.profile.parts import PARTS


@dataclass(frozen=True)
class Size:
    """A model, and steps of it: sequences of each rank, steps in a round, and processes that 24 GB hold at once."""

    model: str
    vocabulary: int
    length: int
    sequences: int
    steps: int
    processes: int = 8


SIZES = {
    "nano": Size("nano", 4096, 256, 4, 10),
    "30m": Size("small_30m", 32768, 512, 4, 1),
    "120m": Size("gpt2_124m", 50304, 512, 4, 1, processes=4),
    "120m_1024": Size("gpt2_124m", 32768, 1024, 4, 1, processes=4),
}
USUAL = ("nano", "30m", "120m")
STAGES = [f"ours:zero={stage}" for stage in range(4)]
CONTESTANTS = {
    1: ["plain", "transformers", "litgpt", *STAGES],
    2: ["plain", "ours:zero=1", "fsdp2", "ours:zero=3"],
}
"""By processes of each. The first so many take part as are held in memory at once, for ours keep what they had."""
WARM_UP_ROUNDS = 1


class Running:
    """A contestant in its processes."""

    def __init__(self, name: str, size: Size, ranks: int, dataset: Path, peers: str | None):
        contestant, _, told = name.partition(":")
        settings = [each for each in told.split("+") if each and not each.startswith("env.")]
        variables = dict(each[4:].split("=", 1) for each in told.split("+") if each.startswith("env."))
        setup = Setup(
            contestant,
            settings,
            size.model,
            size.vocabulary,
            size.length,
            size.sequences,
            str(dataset),
            peers,
        )
        self.name, self.log = name, tempfile.TemporaryFile("w+")  # noqa: SIM115, it lasts as long as the processes
        together: dict[str, str] = {}
        if ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
                together |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contestants", json.dumps(asdict(setup))],
                env=os.environ
                | variables
                | together
                | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
            )
            for rank in range(ranks)
        ]

    def wait(self) -> None:
        """Wait until it stands ready. Raises ChildProcessError: it ended instead."""
        told = self._answers()[0]
        self.flops_per_token = told["flops_per_token"]

    def ask(self, **what: Any) -> list[dict[str, Any]]:
        """Return what each rank answers."""
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(what) + "\n")
                process.stdin.flush()
        return self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout]
        if not all(lines):
            self.log.seek(0)
            raise ChildProcessError(self.log.read()[-3000:] or f"{self.name} ended; was there the memory for all?")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@dataclass
class Row:
    """What a contestant came to.

    Args:
        rates: tokens per second of all ranks, round by round.
        shares: of the operations per second that a large product reached before and after, round by round.
        memory: the most bytes that a process held.
        parts: seconds of a step.
        saving: seconds of a checkpoint.
    """

    name: str
    rates: list[float]
    shares: list[float]
    memory: int
    parts: dict[str, float]
    saving: float


def measure(
    names: list[str], size: Size, ranks: int, dataset: Path, rounds: int, peers: str | None, saving: bool
) -> Iterator[Row | str]:
    """Yield a row of each contestant, or why there is none; the rest is broken off where one ends."""
    running = [Running(name, size, ranks, dataset, peers) for name in names]
    try:
        for each in list(running):
            try:
                each.wait()
            except ChildProcessError as error:
                running.remove(each)
                each.close()
                yield f"{each.name} is left out: {(str(error).strip() or 'it ended').splitlines()[-1]}"
        rates: dict[str, list[float]] = {each.name: [] for each in running}
        shares: dict[str, list[float]] = {each.name: [] for each in running}
        tokens = size.sequences * ranks * size.length * size.steps
        for number in range(-WARM_UP_ROUNDS, rounds):
            before = product_rate()
            for each in running:
                rate = tokens / max(answer["seconds"] for answer in each.ask(steps=size.steps))
                after = product_rate()
                if number >= 0:
                    rates[each.name].append(rate)
                    shares[each.name].append(2 * rate * each.flops_per_token / (before + after))
                before = after
            latest = ", ".join(f"{name} {told[-1]:,.0f}" for name, told in rates.items() if told)
            print(f"round {max(0, number + 1)} of {rounds}: {latest}", file=sys.stderr, flush=True)
        for each in running:
            memory = max(answer["memory"] for answer in each.ask(steps=0))
            parts = each.ask(steps=size.steps, parts=True)[0]["parts"]
            seconds = float("nan")
            if saving:
                with tempfile.TemporaryDirectory() as folder:
                    seconds = max(answer["seconds"] for answer in each.ask(save=folder))
            parts = {part: time / size.steps for part, time in parts.items()}
            yield Row(each.name, rates[each.name], shares[each.name], memory, parts, seconds)
    except ChildProcessError as error:
        yield f"broken off: {str(error).strip().splitlines()[-1]}"
    finally:
        for each in running:
            each.close()


def product_rate(size: int = 2048, seconds: float = 0.7) -> float:
    """Return the operations per second of a large float32 product on all threads, kept up for a while."""
    a, b, out, number = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size), 0
    torch.mm(a, b, out=out)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, b, out=out)
        number += 1
    return 2.0 * size**3 * number / (time.perf_counter() - started)


def training_lines(
    dataset: Path,
    sizes: list[str] | None = None,
    ranks: list[int] | None = None,
    contestants: list[str] | None = None,
    rounds: int = 5,
    peers: str | None = None,
    saving: bool = True,
) -> Iterator[str]:
    """Compare contestants at some sizes on some numbers of processes."""
    alone = measured_peak(torch.float32, 1024, 1.0) / torch.get_num_threads()
    yield f"float32 matrix product: {alone / 1e9:.0f} GFLOP/s by one thread alone, {product_rate() / 1e9:.0f} by all"
    for count in ranks or [1, 2]:
        for name in sizes or USUAL:
            size, of_plain = SIZES[name], None
            tokens = size.sequences * count * size.length
            yield f"\n{name}, {count} processes, T {size.length}, {tokens:,} tokens a step"
            yield _line(["", "tokens/s", "ratio", "(range)", "MFU", "MB", *(f"{part} ms" for part in PARTS), "save s"])
            names = contestants or CONTESTANTS[count][: size.processes // count]
            for row in measure(names, size, count, dataset, rounds, peers, saving):
                if isinstance(row, str):
                    yield row
                    continue
                of_plain = of_plain or row.rates
                ratios = [mine / plain for mine, plain in zip(row.rates, of_plain)]
                yield _line(
                    [
                        row.name,
                        f"{statistics.median(row.rates):,.0f}",
                        f"{statistics.median(ratios):.3f}",
                        f"{min(ratios):.2f}–{max(ratios):.2f}",
                        f"{100 * statistics.median(row.shares):.0f} %",
                        f"{row.memory / 1e6:,.0f}",
                        *(f"{1000 * row.parts[part]:,.1f}" for part in PARTS),
                        f"{row.saving:.1f}",
                    ]
                )


def _line(cells: list[str]) -> str:
    return f"{cells[0]:<28}" + "".join(f"{cell:>{max(9, len(cell) + 1)}}" for cell in cells[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--sizes", type=lambda text: text.split(","))
    parser.add_argument("--ranks", type=lambda text: [int(count) for count in text.split(",")])
    parser.add_argument("--contestants", type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers")
    parser.add_argument("--no-saving", dest="saving", action="store_false")
    asked = parser.parse_args()
    for line in training_lines(**vars(asked)):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
