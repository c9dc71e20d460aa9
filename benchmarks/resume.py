"""`python -m benchmarks.resume [SEQUENCES]`: how long a run takes to find its place again, early and late in an epoch.

A dataset of so many sequences of 32 tokens is made up (ten million if left out). What is measured is everything between
the call and the first batch, in a process that has read nothing before: manifest, indexes, order, checksums of all
shards that the first batches touch, the batches themselves.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.manifest import FORMAT_VERSION, Manifest, SourceCounts, SplitCounts, dataset_fingerprint
from data_pipeline.shards import Block, write_shard

LENGTH, SEQUENCES_A_STEP = 32, 64
BLOCK_TOKENS, SHARD_TOKENS = 1 << 16, 1 << 25
MEASURE = """
import sys, time
import torch
from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.loader import Share, stream

folder, step, length, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
started = time.perf_counter()
sequences = open_training(open_dataset(DataConfig(folder, length)), 0, plan_segments(length, batch), 10**9)
opened = time.perf_counter()
first = next(iter(stream(sequences, Share(batch), step)))
print(f"{time.perf_counter() - started:.4f} {opened - started:.4f} {first[0].numbers.start}")
"""


def resume_lines(sequences: int = 10_000_000, rounds: int = 5) -> Iterator[str]:
    """Yield a line for the beginning of an epoch, one for its middle, and one for where 90 % of it have been read."""
    with tempfile.TemporaryDirectory() as name:
        _make_up(Path(name), sequences * LENGTH)
        for share in (0.0, 0.5, 0.9):
            step = int(sequences * share) // SEQUENCES_A_STEP
            arguments = [sys.executable, "-c", MEASURE, name, str(step), str(LENGTH), str(SEQUENCES_A_STEP)]
            runs = [_measure(arguments) for _ in range(rounds)]
            seconds = sorted(run[0] for run in runs)
            yield (
                f"resume at {share:.0%} of {sequences:,} sequences: first batch after {seconds[rounds // 2]:.3f} s "
                f"({seconds[0]:.3f} to {seconds[-1]:.3f}), {sorted(run[1] for run in runs)[rounds // 2]:.3f} s of it "
                "to open the dataset"
            )


def _measure(arguments: list[str]) -> tuple[float, float]:
    total, opening, _ = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(total), float(opening)


def _make_up(folder: Path, tokens: int) -> None:
    """Write a dataset of tokens that are all the same noise."""
    noise = np.random.default_rng(0).integers(0, 50_000, BLOCK_TOKENS, np.uint16)
    block = Block(noise, np.arange(1024, BLOCK_TOKENS + 1, 1024, dtype=np.uint32))
    shards = []
    for number, first in enumerate(range(0, tokens, SHARD_TOKENS)):
        blocks = -(-min(SHARD_TOKENS, tokens - first) // BLOCK_TOKENS)
        shards.append(write_shard(folder, "train", number, "noise", [block] * blocks))
    counts = {
        "documents": sum(shard.documents for shard in shards),
        "tokens": sum(shard.tokens for shard in shards),
        "bytes": 4 * tokens,
    }
    sources = {"noise": SourceCounts(**counts)}
    Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=dataset_fingerprint(shards, "uint16", "none", sources),
        tokenizer_fingerprint="none",
        vocabulary_size=50_000,
        end_of_document=0,
        dtype="uint16",
        splits={"train": SplitCounts(**counts, blocks=sum(shard.blocks for shard in shards))},
        sources=sources,
        shards=shards,
        settings={},
        stages={},
    ).save(folder)


def main() -> int:
    for line in resume_lines(*map(int, sys.argv[1:])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
