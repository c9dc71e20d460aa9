"""`python -m benchmarks.long_context`: how long a sequence trains within a limit of memory, whole and shared by ranks.

Each process may hold so many bytes beyond what it holds after a step on a short sequence: weights, moments, libraries
and threads are there by then. Whoever wants more gets none from the operating system (RLIMIT_DATA, of Linux), and the
training fails as it would on a device that is full.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from train.memory.footprint import footprint
from train.memory.layout import Layout
from train.model.transformer import TransformerConfig

MODEL = TransformerConfig(
    vocabulary_size=1024, width=128, layers=2, heads=4, key_value_heads=4, hidden_width=352, maximum_length=1 << 15
)
LENGTHS = (1 << 13, 1 << 14, 1 << 15)
SHORT = 256
LIMIT = 550_000_000
NO_MEMORY = 9


@dataclass(frozen=True)
class Way:
    """One way to train on a long sequence."""

    name: str
    ranks: int = 1
    activation_checkpointing: bool = False

    def predicted(self, length: int) -> int:
        """Return the bytes at the peak beyond those of a short sequence."""
        return self._peak(length) - self._peak(SHORT)

    def _peak(self, length: int) -> int:
        layout = Layout(self.ranks, 1, length, 1, "fp32", self.activation_checkpointing, sequence_ranks=self.ranks)
        return footprint(MODEL, layout).peak.total


WAYS = (
    Way("whole"),
    Way("whole, recomputed", activation_checkpointing=True),
    Way("shared by 2", ranks=2),
    Way("shared by 2, recomputed", ranks=2, activation_checkpointing=True),
)


def long_context_lines(limit: int = LIMIT) -> Iterator[str]:
    yield f"a step on one sequence, {limit / 1e6:.0f} MB for each process beside its weights: predicted MB, seconds"
    yield f"{'':<26}" + "".join(f"{length:>18,}" for length in LENGTHS)
    for way in WAYS:
        cells = []
        for length in LENGTHS:
            seconds = seconds_of(way, length, limit)
            cells.append(f"{way.predicted(length) / 1e6:.0f}, {'no memory' if seconds is None else f'{seconds:.1f} s'}")
        yield f"{way.name:<26}" + "".join(f"{cell:>18}" for cell in cells)


def seconds_of(way: Way, length: int, limit: int) -> float | None:
    """Return the seconds of a step, or None where there wasn't the memory for it.

    Raises:
        SystemExit: it failed for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "seconds.json")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(way.ranks)),
            *("-m", "benchmarks.long_context", json.dumps([asdict(way), length, limit]), str(result)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.exists():
            return float(result.read_text())
        if f"exitcode  : {NO_MEMORY}" in finished.stderr:
            return None
        raise SystemExit(finished.stderr[-3000:])


def train(way: Way, length: int, limit: int) -> float:
    """Train a step in this process, one of several; return its seconds.

    Raises:
        SystemExit: with `NO_MEMORY`, where there isn't enough.
    """
    import torch

    from data_pipeline.loader import Batch
    from train.batch import BatchPlan
    from train.deepspeed_settings import ZeroConfig
    from train.distributed import ClusterConfig, join_world, leave_world
    from train.engine import Engine
    from train.objective import ObjectiveConfig, build_objective
    from train.optimizer import OptimizerConfig
    from train.parallel import ParallelConfig
    from train.precision import PrecisionConfig

    world = join_world(ClusterConfig(threads=1, huge_pages=False))  # what is reserved would be within the limit
    objective = build_objective(ObjectiveConfig(), document_mask=False)
    engine = Engine(
        MODEL, 0, world, BatchPlan(1, 1, 1, 1), ZeroConfig(), PrecisionConfig(), OptimizerConfig(),
        way.activation_checkpointing, parallel=ParallelConfig(way.ranks),
    )  # fmt: skip
    drawn = torch.randint(0, 1024, (1, length + 1), generator=torch.Generator().manual_seed(0))

    def step(tokens: int) -> float:
        batch = Batch(drawn[:, :tokens], drawn[:, 1 : tokens + 1], [[tokens]], range(1))
        started = time.perf_counter()
        engine.train_step([engine.place.part(batch)], objective, 1e-3, lambda *_: None)
        return time.perf_counter() - started

    step(SHORT)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + limit, resource.RLIM_INFINITY))
    try:
        return step(length)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        # At once: the other rank waits for this one.
        os._exit(NO_MEMORY)
    finally:
        leave_world()


def data_bytes() -> int:
    """Return what this process has for data, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def main() -> int:
    if len(sys.argv) == 3:
        way, length, limit = json.loads(sys.argv[1])
        seconds = train(Way(**way), length, limit)
        if os.environ["RANK"] == "0":
            Path(sys.argv[2]).write_text(str(seconds))
        return 0
    for line in long_context_lines(int(float(sys.argv[1])) if len(sys.argv) > 1 else LIMIT):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
