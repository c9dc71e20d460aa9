"""Looks at a few steps of a trainer: first the time of each part, undisturbed by anything else; then every operator."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from train.hardware import peak_memory
from train.profile.parts import Parts, wrap_trainer
from train.profile.settings import ProfilingConfig
from train.trainer import Trainer

WAITS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize")


@dataclass(frozen=True)
class Operator:
    """What an operator takes in a step by itself, without those that it calls.

    Args:
        seconds: on the device where there is one, else on the CPU.
        bytes: that it allocates more than it frees.
    """

    name: str
    calls: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Profile:
    """What was found, on this rank.

    Args:
        ranks: of the run.
        tokens: of a step, over all ranks.
        step_seconds: of a step that nobody looks at.
        mfu: of such a step, or None where the device's peak isn't known.
        parts: seconds of a step by part; `checkpoint` is the time of one save.
        operators: those that take most, of `operator_seconds` in all.
        waits: how often in a step the program waits for a number from the device.
        planned: bytes at the fullest moment, by what they are for; predicted.
        moment: which that is.
        peak_bytes: that this process has held at most; on a CPU libraries included.
    """

    ranks: int
    tokens: int
    step_seconds: float
    mfu: float | None
    parts: dict[str, float]
    operators: list[Operator]
    operator_seconds: float
    waits: float
    planned: dict[str, int]
    moment: str
    peak_bytes: int
    trace: str

    def json(self) -> dict[str, Any]:
        return asdict(self)


def measure(trainer: Trainer, config: ProfilingConfig, folder: Path) -> Profile:
    """Run steps and look at them. Every rank calls it; each writes a trace into the folder."""
    world, prepared = trainer.world, trainer.prepared
    for _ in range(config.warm_up):
        trainer.step()
    seconds, tokens = _timed(trainer, config.steps)
    parts = _parts(trainer, config.steps)
    trace = folder / ("trace.json" if world.size == 1 else f"trace-{world.rank:05d}.json")
    table = _traced(trainer, config.traced, trace)
    peak = peak_memory(world.device)
    held = prepared.footprint.peak
    device = world.device.type == "cuda"
    operators = [
        Operator(
            each.key,
            each.count / config.traced,
            (each.self_device_time_total if device else each.self_cpu_time_total) / 1e6 / config.traced,
            (each.self_device_memory_usage if device else each.self_cpu_memory_usage) / config.traced,
        )
        for each in table
        if not each.key.startswith(("part ", "ProfilerStep"))
    ]
    operators.sort(key=lambda each: each.seconds, reverse=True)
    flops = trainer.flops_per_token * tokens / seconds
    return Profile(
        ranks=world.size,
        tokens=tokens,
        step_seconds=seconds,
        mfu=flops / trainer.peak_flops if trainer.peak_flops else None,
        parts=parts,
        operators=operators[: config.operators],
        operator_seconds=sum(each.seconds for each in operators),
        waits=sum(each.calls for each in operators if each.name in WAITS),
        planned={name: value for name, value in asdict(held).items() if value},
        moment=prepared.footprint.moment,
        peak_bytes=peak,
        trace=str(trace),
    )


def _timed(trainer: Trainer, steps: int) -> tuple[float, int]:
    """Return the seconds of a step and its tokens, with nobody looking."""
    trainer.world.barrier()
    before, started = trainer.state.tokens, time.perf_counter()
    for _ in range(steps):
        trainer.step()
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize(trainer.world.device)
    return (time.perf_counter() - started) / steps, (trainer.state.tokens - before) // steps


def _parts(trainer: Trainer, steps: int) -> dict[str, float]:
    """Return the seconds of a step by part, and of one save."""
    parts = Parts(trainer.world.device)
    wrap_trainer(parts, trainer)
    try:
        trainer.world.barrier()
        parts.begin()
        for _ in range(steps):
            trainer.step()
        found = {part: seconds / steps for part, seconds in parts.end().items()}
        parts.begin()
        trainer.save(background=False)
        return found | {"checkpoint": sum(parts.end().values())}
    finally:
        parts.unwrap()


def _traced(trainer: Trainer, steps: int, trace: Path) -> Any:
    """Return the table of operators of some steps, whose trace is written down."""
    activities = [ProfilerActivity.CPU]
    if trainer.world.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    parts = Parts(trainer.world.device, named=True)
    wrap_trainer(parts, trainer)
    try:
        parts.begin()
        with profile(activities=activities, profile_memory=True) as profiler:
            for _ in range(steps):
                trainer.step()
    finally:
        parts.unwrap()
    profiler.export_chrome_trace(str(trace))
    return profiler.key_averages()
