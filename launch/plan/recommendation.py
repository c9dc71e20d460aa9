"""Every layout that our trainer could run, what each takes, and which of them is the one to use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from launch.plan.settings import PlanConfig
from launch.plan.speed import StepTime, step_time
from launch.plan.work import Work, work_of
from train.deepspeed_constraints import CONSTRAINTS, Asked
from train.memory.footprint import Footprint, footprint
from train.memory.layout import Layout
from train.memory.room import needed
from train.memory.sizes import ParameterSizes, parameter_sizes
from train.model.transformer import TransformerConfig
from train.parallel import check_shares, check_split

STEP_TOKENS = 1 << 20
"""Of a step, about, where the user doesn't say: what models of some billions are trained with."""

AS_FAST = 0.99
"""Layouts that are so near to the fastest count as equal: then the simpler one is used."""


@dataclass(frozen=True)
class Option:
    """One layout with what it takes.

    Args:
        needed: bytes on the device, allowances included.
        tokens_per_second: of one device.
        mfu: share of the device's peak that the model's own operations come to.
    """

    layout: Layout
    footprint: Footprint
    needed: float
    fits: bool
    time: StepTime
    tokens_per_second: float
    mfu: float

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """What tells it from others but the micro-batch: stage, offload, checkpointing."""
        return self.layout.zero.stage, self.layout.zero.offload_optimizer, self.layout.activation_checkpointing

    @property
    def name(self) -> str:
        stage, offload, again = self.kind
        parts = [f"ZeRO {stage}", "offload" if offload else "", "checkpointing" if again else ""]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Recommendation:
    """What to run.

    Args:
        model: resolved as far as memory and speed need it.
        sequences: of a step.
        shown: the best of each kind, fitting or not.
        chosen: None if nothing fits.
        limits: what keeps it from being faster, in words.
    """

    model: TransformerConfig
    work: Work
    sequences: int
    shown: list[Option]
    chosen: Option | None
    limits: str


def recommend(config: PlanConfig) -> Recommendation:
    """Return the fastest layout that fits among all stages, micro-batches and ways to recompute that are allowed."""
    model = config.model.resolve(config.model.vocabulary_size or config.data.vocabulary)
    check_shares(config.parallel, model, [config.data.sequence_length])
    is_muon = config.optimizer.kind == "muon"
    check_split(config.parallel, model, {"optimizer=muon": "makes whole matrices orthogonal"} if is_muon else {})
    work, readers = work_of(model, config.data.sequence_length, config.optimizer), config.readers
    sequences = config.batch.sequences or readers * math.ceil(STEP_TOKENS / config.data.sequence_length / readers)
    sizes = parameter_sizes(model, config.optimizer, tensor_ranks=config.parallel.tensor)
    mine = work_of(model, config.data.sequence_length, config.optimizer, config.parallel.tensor)
    options = [_option(layout, model, sizes, work, mine, config) for layout in _layouts(config, sequences // readers)]
    kinds = list(dict.fromkeys(option.kind for option in options))
    shown = [_best([option for option in options if option.kind == kind]) for kind in sorted(kinds)]
    fitting = [option for option in shown if option.fits]
    chosen = _best(fitting) if fitting else None
    limits = _limits(chosen, options) if chosen else _too_large(options, config)
    return Recommendation(model, work, sequences, shown, chosen, limits)


def _layouts(config: PlanConfig, share: int) -> list[Layout]:
    """Return all layouts of a rank's share of the batch that DeepSpeed and we allow."""
    micros = [config.batch.micro] if config.batch.micro else [m for m in range(1, share + 1) if share % m == 0]
    again = [False, True] if config.activation_checkpointing is None else [config.activation_checkpointing]
    zeros = [
        replace(config.zero, stage=stage, offload_optimizer=offload, offload_parameters=offload and stage == 3)
        for stage in sorted(set(config.stages))
        for offload in ([False, True] if config.offload else [False])
    ]
    return [
        Layout(
            ranks=config.cluster.devices // config.parallel.tensor,
            sequence_ranks=config.parallel.sequence,
            tensor_ranks=config.parallel.tensor,
            micro=micro,
            length=config.data.sequence_length,
            accumulation=share // micro,
            precision=config.precision.kind,
            activation_checkpointing=checkpointing,
            recomputed=config.recomputed,
            is_gpu=config.device.is_gpu,
            zero=zero,
        )
        for zero in zeros
        if not any(row.broken(Asked(zero, config.precision)) for row in CONSTRAINTS)
        for checkpointing in again
        for micro in micros
    ]


def _option(
    layout: Layout, model: TransformerConfig, sizes: ParameterSizes, work: Work, mine: Work, config: PlanConfig
) -> Option:
    """Return what a layout takes.

    Args:
        sizes: of the parameters of a rank.
        work: of a token.
        mine: what of it one rank does.
    """
    held = footprint(model, layout, sizes)
    time = step_time(mine, layout, config.cluster)
    speed = layout.tokens * layout.accumulation / time.total / layout.tensor_ranks
    peak = config.device.peak_flops[layout.precision]
    need = needed(held, layout.is_gpu)
    fits = need <= config.device.memory
    return Option(layout, held, need, fits, time, speed, work.model_flops * speed / peak)


def _best(options: list[Option]) -> Option:
    """Return the simplest of those that fit and are as fast as the fastest, or what needs least if nothing fits."""
    fitting = [option for option in options if option.fits]
    if not fitting:
        return min(options, key=lambda option: option.needed)
    fastest = max(option.tokens_per_second for option in fitting)
    as_fast = [option for option in fitting if option.tokens_per_second >= AS_FAST * fastest]
    return min(as_fast, key=lambda option: (*option.kind, option.needed))


def _limits(chosen: Option, options: list[Option]) -> str:
    """Say what most of the chosen step's time goes into, and what stands in the way of a larger micro-batch."""
    time = chosen.time
    shares = {
        "matrix products": time.matrix + time.attention,
        "recomputing activations": time.recomputed,
        "moving data through memory": time.moved + time.update,
        "communication that nothing hides": time.communication,
    }
    most = max(shares, key=lambda name: shares[name])
    said = f"{most}, {shares[most] / time.total:.0%} of a step"
    larger = [
        option
        for option in options
        if option.kind == chosen.kind and option.layout.micro > chosen.layout.micro and not option.fits
    ]
    if larger:
        nearest = min(larger, key=lambda option: option.layout.micro)
        said += f"; a micro-batch of {nearest.layout.micro} would need {nearest.needed / 1e9:.1f} GB"
    return said


def _too_large(options: list[Option], config: PlanConfig) -> str:
    """Say how far the least layout is from fitting."""
    least = min(options, key=lambda option: option.needed, default=None)
    if least is None:
        return "no stage that was asked for can be run in this precision"
    advice = "take more devices" if config.offload else "take more devices, or offload=true"
    return (
        f"memory: the least, {least.name} with a micro-batch of {least.layout.micro}, needs "
        f"{least.needed / 1e9:.1f} GB of the {config.device.name}'s {config.device.memory / 1e9:.0f} GB; {advice}"
    )
