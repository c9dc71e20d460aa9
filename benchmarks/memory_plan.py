"""`python -m benchmarks.memory_plan`: a rank's peak memory as predicted, beside what it was measured to be, on CPUs.

Measured is the largest sum of bytes that torch's allocator had handed out at a moment, from the engine's construction
to the end of the second step, counted from the events of its profiler: what `torch.cuda.max_memory_allocated` counts on
a GPU. The resident memory of a process would say less: pages that were allocated and never written aren't in it, the
allocator of the C library keeps what was freed, and libraries share it. Of several ranks the largest counts. Of
several rounds the smallest: a thread that passes a gradient on may hold it until after the next one is made, or not.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.foundation.files import write_json
from train.deepspeed_settings import ZeroConfig
from train.memory.footprint import Footprint, footprint
from train.memory.layout import Layout
from train.memory.sizes import parameter_sizes
from train.model.transformer import TransformerConfig
from train.optimizer import OptimizerConfig

MODELS = {
    "tied": TransformerConfig(vocabulary_size=16384, width=320, layers=8, heads=5, key_value_heads=5, hidden_width=864),
    "grouped": TransformerConfig(
        vocabulary_size=12288,
        width=512,
        layers=4,
        heads=8,
        key_value_heads=2,
        hidden_width=1408,
        tied_embeddings=False,
    ),
    "experts": TransformerConfig(
        vocabulary_size=8192,
        width=256,
        layers=4,
        heads=4,
        key_value_heads=4,
        hidden_width=352,
        experts=6,
        active_experts=2,
    ),
}
STEPS = 2
ROUNDS = 2


@dataclass(frozen=True)
class Case:
    """One training to be measured."""

    model: str
    stage: int
    activation_checkpointing: bool
    micro: int = 2
    length: int = 192
    accumulation: int = 1
    precision: str = "fp32"
    bucket: int = 4_000_000
    optimizer: str = "adamw"
    recomputed: str = "blocks"
    sequence: int = 1
    tensor: int = 1

    def layout(self, ranks: int) -> Layout:
        return Layout(
            ranks // self.tensor,
            self.micro,
            self.length,
            self.accumulation,
            self.precision,
            self.activation_checkpointing,
            recomputed=self.recomputed,
            sequence_ranks=self.sequence,
            tensor_ranks=self.tensor,
            zero=ZeroConfig(stage=self.stage, reduce_bucket=self.bucket, gather_bucket=self.bucket),
        )

    @property
    def name(self) -> str:
        checkpointing = f"again {self.recomputed}" if self.activation_checkpointing else ""
        together = f" shared by {self.sequence}" if self.sequence > 1 else ""
        together += f" split by {self.tensor}" if self.tensor > 1 else ""
        return f"{self.model:<8} {self.optimizer:<5} ZeRO {self.stage} {checkpointing:<13}{together}"


CASES = [Case(model, stage, again) for model in MODELS for stage in range(4) for again in (False, True)]
CASES += [Case(model, stage, True, recomputed="cheap") for model in ("tied", "grouped") for stage in (0, 3)]
CASES += [Case("tied", stage, False, optimizer=kind) for kind in ("muon", "lion") for stage in range(4)]
SHARED = [Case("grouped", stage, again, length=1024, sequence=2) for stage in (0, 3) for again in (False, True)]
SPLIT = [
    Case(model, stage, again, tensor=2)
    for model in ("grouped", "experts")
    for stage in (0, 1)
    for again in (False, True)
]
"""Of two ranks alone."""


def predicted(case: Case, ranks: int) -> Footprint:
    model = MODELS[case.model]
    sizes = parameter_sizes(model, OptimizerConfig(case.optimizer), tensor_ranks=case.tensor)
    return footprint(model, case.layout(ranks), sizes)


def measured_peaks(cases: list[Case], ranks: int) -> list[int]:
    """Return the peak of each case in bytes, all of them run in one start of so many processes.

    Raises:
        SystemExit: a training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        plans, results = Path(folder, "cases.json"), Path(folder, "peaks.json")
        plans.write_text(json.dumps([asdict(case) for case in cases]))
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
            *("-m", "benchmarks.memory_plan", str(plans), str(results)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        # The exit code says nothing of the figures: torch's profiler was seen to abort a process that was done.
        if not results.exists():
            raise SystemExit(finished.stderr[-3000:])
        return json.loads(results.read_text())


def memory_plan_lines() -> Iterator[str]:
    errors = []
    yield f"{'':<40}{'measured':>10}{'predicted':>11}{'error':>8}  MB; fullest at"
    for ranks in (1, 2):
        cases = [case for case in (*CASES, *SHARED, *SPLIT) if ranks % (case.sequence * case.tensor) == 0]
        for case, measured in zip(cases, measured_peaks(cases, ranks)):
            planned = predicted(case, ranks)
            error = planned.peak.total / measured - 1
            errors.append(abs(error))
            yield (
                f"{case.name} {ranks} rank{'s' if ranks > 1 else ' '} {measured / 1e6:>10,.1f}"
                f"{planned.peak.total / 1e6:>11,.1f}{error:>+8.1%}  {planned.moment}"
            )
    yield f"{len(errors)} layouts: median error {statistics.median(errors):.1%}, worst {max(errors):.1%}"


def measure(cases: list[Case], results: Path) -> None:
    """Run trainings in this process, one of several; rank 0 writes the largest peak over all of them for each."""
    from train.distributed import ClusterConfig, join_world, leave_world

    world = join_world(ClusterConfig(threads=1))
    try:
        peaks = [min(max(world.gather(_peak(case, world))) for _ in range(ROUNDS)) for case in cases]
        if world.is_main:
            write_json(results, peaks)
        world.barrier()
    finally:
        leave_world()


def _peak(case: Case, world) -> int:  # type: ignore[no-untyped-def]
    import torch
    from torch.profiler import ProfilerActivity, profile

    from data_pipeline.loader import Batch
    from train.batch import BatchConfig, plan_batch
    from train.engine import Engine
    from train.objective import ObjectiveConfig, build_objective
    from train.parallel import ParallelConfig
    from train.precision import PrecisionConfig

    model, layout = MODELS[case.model], case.layout(world.size)
    vocabulary = model.vocabulary_size
    assert vocabulary is not None
    generator = torch.Generator().manual_seed(world.rank // case.tensor)
    objective = build_objective(ObjectiveConfig(), document_mask=False)

    def batch() -> Batch:
        tokens = torch.randint(0, vocabulary, (case.micro, case.length + 1), generator=generator)
        ends = [[case.length]] * case.micro
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), ends, range(case.micro))

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        parallel = ParallelConfig(case.sequence, case.tensor)
        readers = world.size // parallel.together
        sequences = case.micro * case.accumulation * readers
        engine = Engine(
            model,
            0,
            world,
            plan_batch(BatchConfig(sequences, case.micro), readers),
            layout.zero,
            PrecisionConfig(case.precision),
            OptimizerConfig(case.optimizer),
            case.activation_checkpointing,
            recomputed=case.recomputed,
            parallel=parallel,
        )
        gc.collect()
        for _ in range(STEPS):
            batches = [engine.place.part(batch()) for _ in range(case.accumulation)]
            engine.train_step(batches, objective, 1e-3, lambda *_: None)
    engine.close()
    del engine
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    # Those of different threads are listed one thread after the other.
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> int:
    if len(sys.argv) == 3:
        measure([Case(**case) for case in json.loads(Path(sys.argv[1]).read_text())], Path(sys.argv[2]))
        return 0
    for line in memory_plan_lines():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
