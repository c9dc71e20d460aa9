"""`python -m benchmarks.published [--fit]`: the planner beside what others have measured and published.

Rows are in published.csv, with their sources below. Rows to `calibrate` by and rows to `judge` by are different rows:
`--fit` finds the two efficiencies of a device (matrix products, attention) from the first alone and prints them, to be
written into conf/device by hand; without it the sheets are taken as they are, and only the others are judged. Every
other constant is from a data sheet or from counting kernels.

What was measured ran in other programs: FSDP in place of DeepSpeed, other kernels, other recomputation. Those are
described here, from their code; collectives, efficiencies and the sum of a step are the planner's.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from data_pipeline.foundation.configuration import compose_configuration
from launch.plan.hardware import Cluster, DeviceConfig, NetworkConfig
from launch.plan.settings import PlanConfig, register_plan
from launch.plan.speed import BLOCKS, Recomputed, Traffic, step_time
from launch.plan.work import Work
from train.deepspeed_settings import ZeroConfig
from train.memory.layout import Layout

SOURCES = {
    "llm-foundry H100": "mosaicml/llm-foundry, scripts/train/benchmarking/README.md, H100 80GB BF16",
    "llm-foundry A100 80GB": "mosaicml/llm-foundry, scripts/train/benchmarking/README.md, A100 80GB",
    "llm-foundry A100 40GB": "mosaicml/llm-foundry, scripts/train/benchmarking/README.md, A100 40GB",
    "torchtitan H100": "pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 3",
    "torchtitan A100": "pytorch/torchtitan, docs/performance.md of 2024, 64 A100",
}
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A published model: width, layers, widths of keys and of the feed-forward layer, vocabulary.

    Args:
        gated: the feed-forward layer has three matrices, as Llama's, not two with biases, as MPT's.
    """

    width: int
    layers: int
    keys: int
    hidden: int
    vocabulary: int
    gated: bool

    @property
    def block_matrices(self) -> int:
        feed_forward = (3 if self.gated else 2) * self.width * self.hidden
        return 2 * self.width * (self.width + self.keys) + feed_forward

    def parameters(self, length: int) -> int:
        """Return all parameters; MPT has learned positions, biases everywhere and tied embeddings."""
        if self.gated:
            norms = (2 * self.layers + 1) * self.width
            return self.layers * self.block_matrices + 2 * self.vocabulary * self.width + norms
        norms_and_biases = self.layers * 13 * self.width + 2 * self.width
        return self.layers * self.block_matrices + (self.vocabulary + length) * self.width + norms_and_biases


def mpt(width: int, layers: int) -> Shape:
    return Shape(width, layers, width, 4 * width, 50368, gated=False)


SHAPES = {
    "mpt_1b": mpt(2048, 24),
    "mpt_3b": mpt(2560, 32),
    "mpt_7b": mpt(4096, 32),
    "mpt_13b": mpt(5120, 40),
    "mpt_30b": mpt(7168, 48),
    "mpt_70b": mpt(8192, 80),
    "llama_8b": Shape(4096, 32, 1024, 14336, 128256, gated=True),
    "llama_70b": Shape(8192, 80, 1024, 28672, 128256, gated=True),
    "llama2_13b": Shape(5120, 40, 5120, 13824, 32000, gated=True),
    "llama2_70b": Shape(8192, 80, 1024, 28672, 32000, gated=True),
}


@dataclass(frozen=True)
class Row:
    """A published measurement."""

    source: str
    use: str
    device: str
    network: str
    model: str
    length: int
    devices: int
    micro: int
    accumulation: int
    checkpointing: str
    kernels: str
    speed: float
    memory: float | None

    @property
    def name(self) -> str:
        how = f"{self.kernels}, " if self.kernels != "mpt" else ""
        return f"{self.model} × {self.length}, {self.devices} {self.device}, {how}{self.checkpointing}"


def published_rows() -> list[Row]:
    with Path(__file__).with_name("published.csv").open(encoding="utf-8") as file:
        return [
            Row(
                source=row["source"],
                use=row["use"],
                device=row["device"],
                network=row["network"],
                model=row["model"],
                length=int(row["length"]),
                devices=int(row["devices"]),
                micro=int(row["micro"]),
                accumulation=int(row["accumulation"]),
                checkpointing=row["checkpointing"],
                kernels=row["kernels"],
                speed=float(row["tokens_per_second_per_device"]),
                memory=float(row["memory_gib"]) if row["memory_gib"] else None,
            )
            for row in csv.DictReader(file)
        ]


MOVED = {
    # Elements per token and block: norms, sums, and what is between the products, in units of D, Q + K and H.
    # MPT: two LayerNorms in 16 bits, two sums, GELU over H, dropout-free; q, k, v split and attention's own reads.
    "mpt": lambda shape: 10 * shape.width + 4 * (shape.width + shape.keys) + 2 * shape.hidden,
    # torchtitan in 2024, eager: norms written out in float32 (A100 rows: fused), rotation in float32, silu and product.
    "eager": lambda shape: 16 * shape.width + 12 * (shape.width + shape.keys) + 5 * shape.hidden,
    # One kernel per norm with its sum, per rotation, per silu with its product.
    "compiled": lambda shape: 8 * shape.width + 4 * (shape.width + shape.keys) + 3 * shape.hidden,
}
LOSS_BYTES = 44
"""Per logit: product in 16 bits, float32 copy, log-softmax, its gradient, and back."""


def work_of(row: Row) -> Work:
    """Return the work of a published model. Its causal kernels skip half of attention's products."""
    shape = SHAPES[row.model]
    head = 2.0 * shape.vocabulary * shape.width
    return Work(
        parameters=shape.parameters(row.length),
        active_parameters=shape.parameters(row.length),
        matrix_flops=2.0 * shape.layers * shape.block_matrices + head,
        head_flops=head,
        attention_flops=2.0 * shape.layers * shape.width * row.length,
        moved=shape.layers * MOVED[row.kernels](shape),
        loss_bytes=LOSS_BYTES * shape.vocabulary,
    )


def recomputed(row: Row) -> Recomputed:
    """Return what is done again. torchtitan's selective way keeps attention and every other product."""
    if row.checkpointing == "selective":
        shape = SHAPES[row.model]
        dropped = shape.width * (shape.keys + shape.width + shape.hidden)
        return Recomputed(matrix=dropped / shape.block_matrices, moved=1.0)
    return BLOCKS if row.checkpointing == "block" else Recomputed()


FSDP = Traffic(
    gathers=2,
    gather_bytes=2,
    reduces=True,
    reduce_bytes=4,
    all_reduce=False,
    update_bytes=0,
    gathers_hidden=True,
    reduces_hidden=True,
)
"""Fully sharded: gathered for each pass in 16 bits, gradients scattered in float32, all of it beside computing."""


def predicted_speed(row: Row, device: DeviceConfig, network: NetworkConfig) -> float:
    """Return tokens per second and device."""
    per_node = min(8, row.devices)
    cluster = Cluster(device, network, row.devices // per_node, per_node)
    layout = Layout(row.devices, row.micro, row.length, row.accumulation, "bf16", is_gpu=True, zero=ZeroConfig(stage=3))
    seconds = step_time(work_of(row), layout, cluster, FSDP, recomputed(row)).total
    return layout.tokens * layout.accumulation / seconds


def predicted_memory(row: Row) -> float:
    """Return GiB of torchtitan's FSDP2 at its fullest moment, when the loss's gradient is made.

    State: float32 weights, gradients and moments, sharded. Gathered in 16 bits: embedding and head, two blocks. Kept:
    per block its input and, selectively, the outputs of every other product and of attention. Logits: log-softmax, its
    incoming and its outgoing gradient, each in float32.
    """
    shape, tokens = SHAPES[row.model], row.micro * row.length
    state = 16 * shape.parameters(row.length) / row.devices
    gathered = 2 * (2 * shape.vocabulary * shape.width + 2 * shape.block_matrices)
    kept = shape.width
    if row.checkpointing == "selective":
        # Queries, values, gate, the second feed-forward product; attention's output.
        kept += 3 * shape.width + shape.keys + shape.hidden
    activations = 2 * tokens * shape.layers * kept
    logits = 3 * 4 * tokens * shape.vocabulary
    return (state + gathered + activations + logits) / GIB


@cache
def sheets(name: str, network: str) -> tuple[DeviceConfig, NetworkConfig]:
    register_plan()
    overrides = ["model=llama_8b", f"device={name}", f"network={network}"]
    config = compose_configuration("plan", overrides, PlanConfig).value
    return config.device, config.network


def of_row(row: Row, device: DeviceConfig) -> DeviceConfig:
    """Return the device that a row was measured on: torchtitan's H100 had HBM2e at 2.4 TB/s (its page says)."""
    return replace(device, memory_bandwidth=2.4e12) if row.source == "torchtitan H100" else device


def published_lines() -> Iterator[str]:
    """Yield a table of the judged rows, and what it comes to."""
    speeds, memories = [], []
    known = {row.device: sheets(row.device, row.network) for row in published_rows()}
    yield f"{'':<52}{'published':>10}{'predicted':>10}{'error':>8}   tokens/s/device; GiB"
    for row in published_rows():
        if row.use != "judge":
            continue
        device, _ = known[row.device]
        speed = predicted_speed(row, of_row(row, device), sheets(row.device, row.network)[1])
        speeds.append(speed / row.speed - 1)
        line = f"{row.name:<52}{row.speed:>10,.0f}{speed:>10,.0f}{speeds[-1]:>+8.1%}"
        if row.memory:
            memory = predicted_memory(row)
            memories.append(memory / row.memory - 1)
            line += f"   {row.memory:.1f} GiB, predicted {memory:.1f} ({memories[-1]:+.1%})"
        yield f"{line}   {row.source}"
    yield summary("speed", speeds)
    yield summary("memory", memories)
    yield from (f"source: {name}: {where}" for name, where in SOURCES.items())


def summary(what: str, errors: list[float]) -> str:
    sizes = sorted(map(abs, errors))
    return (
        f"{what}: {len(errors)} rows, median error {statistics.median(sizes):.1%}, worst {sizes[-1]:.1%}, "
        f"mean with sign {statistics.mean(errors):+.1%}"
    )


def fit_lines() -> Iterator[str]:
    """Yield for each device the pair of efficiencies with the least mean error over the rows to calibrate by."""
    for name in sorted({row.device for row in published_rows()}):
        rows = [row for row in published_rows() if row.use == "calibrate" and row.device == name]
        device, network = sheets(name, rows[0].network)
        best = min(
            (
                statistics.mean(
                    abs(
                        predicted_speed(
                            row, replace(device, matrix_efficiency=a / 100, attention_efficiency=b / 100), network
                        )
                        / row.speed
                        - 1
                    )
                    for row in rows
                ),
                a / 100,
                b / 100,
            )
            for a in range(40, 96)
            for b in range(10, 81)
        )
        yield f"{name}: matrix_efficiency {best[1]}, attention_efficiency {best[2]}; {len(rows)} rows, {best[0]:.1%}"


def main() -> int:
    for line in fit_lines() if sys.argv[1:] == ["--fit"] else published_lines():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
