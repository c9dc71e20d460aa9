"""Everything a training run is told: the root of `conf/train.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_pipeline.curriculum import Segment, plan_segments
from data_pipeline.dataset import DataConfig, check_data
from data_pipeline.foundation.errors import UserError
from train import compilation
from train.batch import BatchConfig
from train.checkpoint.save import CheckpointConfig, check_checkpoints
from train.compilation import check_compile, check_one_graph
from train.deepspeed_settings import ZeroConfig, check_passed_through, check_zero
from train.distributed import ClusterConfig
from train.ema import EmaConfig, check_ema
from train.float8 import check_float8
from train.guard import GuardConfig, check_guard
from train.model.adapters import LoraConfig, check_lora
from train.model.compressible import QuantizationAwareConfig, check_quantization
from train.model.recomputation import BLOCKS, CHEAP, HOST, check_recomputed
from train.model.transformer import TransformerConfig
from train.objective import ObjectiveConfig, check_objective
from train.optimizer import OptimizerConfig, check_optimizer
from train.parallel import ParallelConfig
from train.precision import PrecisionConfig
from train.samples import SamplesConfig
from train.schedule import ScheduleConfig, check_schedule
from train.study.settings import StudyConfig
from train.telemetry.trackers import TrackerConfig
from train.time_limit import parse_seconds
from train.validation import ValidationConfig


@dataclass
class RunConfig:
    """Where a run's folder is.

    Args:
        name: of the folder; None names it after the model and a hash of what decides the result, so that the same
            command goes on with the same run.
        root: folder of all runs.
    """

    name: str | None = None
    root: str = "runs"


@dataclass
class TrainConfig:
    """One training run.

    Args:
        seed: of initial weights, order of data and samples.
        steps: optimizer steps; the schedule counts on them.
        start_from: a run or a checkpoint whose model and weights a new run begins with.
        stop_after: leave with a checkpoint and exit code 75 after that step.
        time_limit: seconds, HH:MM:SS or D-HH:MM:SS from the start on, by which to have left like that. SLURM's own
            limit is known without.
        log_every: steps between two rows of `metrics.jsonl`.
        activation_checkpointing: recompute each block in the backward pass: less memory, a third more work.
        recomputed: what of a block: `blocks`, all of it; `cheap`, all but matrix products and attention, which keeps
            more and costs little; `host`, all of it, from inputs that wait in host memory.
        compile: run the model as compiled graphs; needs a compiler, and time at the first start.
        compiled: what is: `blocks`, each by the same graph; `model`, all in one, at stages 0 to 2; `deepcompile`, all
            in one with what ZeRO sends, at stages 1 to 3 on NVIDIA GPUs.
        deepspeed: options passed through to DeepSpeed, checked by name.
    """

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    steps: int = 1000
    start_from: str | None = None
    stop_after: int | None = None
    time_limit: str | None = None
    log_every: int = 1
    activation_checkpointing: bool = False
    recomputed: str = BLOCKS
    compile: bool = False
    compiled: str = compilation.BLOCKS
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: QuantizationAwareConfig = field(default_factory=QuantizationAwareConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)


FREE_TO_CHANGE = (
    "activation_checkpointing",
    "batch.micro",
    "checkpoint",
    "cluster",
    "compile",
    "compiled",
    "data.bad_shards",
    "data.cache",
    "data.path",
    "deepspeed",
    "guard.replica_check_every",
    "guard.rollbacks",
    "log_every",
    "parallel",
    "precision",
    "recomputed",
    "run",
    "samples",
    "stop_after",
    "study",
    "time_limit",
    "tracker",
    "validation",
    "zero",
)
"""Settings that a run may be resumed with at other values: they don't decide what is learnt, only where and how."""


def check_settings(config: TrainConfig) -> None:
    """Refuse what can't work, before any process is started.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    at_least = {"steps": 1, "log_every": 1, "validation.every": 0}
    at_least |= {"validation.sequences": 1, "samples.every": 0, "samples.tokens": 1}
    at_least |= {"cluster.hang_seconds": 0, "cluster.straggler_ratio": 0}
    for key, least in at_least.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and value < least:
            raise UserError(f"{key}={value} must be at least {least}")
    if config.stop_after is not None and config.stop_after < 1:
        raise UserError(f"stop_after={config.stop_after} must be at least 1")
    if config.time_limit is not None:
        parse_seconds(config.time_limit)
    if config.cluster.kind != "local":
        raise UserError(
            f"cluster.kind={config.cluster.kind}: `python -m train` is what a launcher starts: use `headrace train`"
        )
    _check_compiled(config)
    check_schedule(config.schedule, config.steps)
    check_objective(config.objective, config.start_from)
    check_lora(config.lora, config.start_from)
    check_quantization(config.quantization, config.lora.rank, None)
    check_recomputed(config.recomputed)
    check_optimizer(config.optimizer)
    check_ema(config.ema)
    if config.optimizer.base_width and config.lora.rank:
        raise UserError(
            f"optimizer.base_width={config.optimizer.base_width} is for models that are trained from nothing, and "
            f"lora.rank={config.lora.rank} trains adapters: leave it out"
        )
    check_checkpoints(config.checkpoint, config.validation.every)
    check_guard(config.guard)
    check_zero(config.zero, config.precision, config.deepspeed)
    check_passed_through(config.deepspeed)
    if config.precision.kind == "fp8":
        whole_blocks = config.activation_checkpointing and config.recomputed != CHEAP
        others = {"lora.rank": config.lora.rank, "quantization.bits": config.quantization.bits}
        check_float8(config.zero.stage, whole_blocks, {key: value for key, value in others.items() if value})
    check_data(config.data)
    longest = max(segment.length for segment in plan_run(config))
    if longest > config.model.maximum_length:
        raise UserError(
            f"data.sequence_length={longest} is longer than the model allows "
            f"(model.maximum_length={config.model.maximum_length}): shorten the one or raise the other"
        )


def _check_compiled(config: TrainConfig) -> None:
    """Refuse what can't be compiled together, as far as the settings alone say it."""
    kind, parallel, recomputes = config.compiled, config.parallel, config.activation_checkpointing
    untried: dict[str, object] = {
        f"parallel.sequence={parallel.sequence}": parallel.sequence > 1,
        f"parallel.tensor={parallel.tensor}": parallel.tensor > 1,
    }
    in_one_graph: dict[str, object] = {
        f"lora.rank={config.lora.rank}": config.lora.rank,
        f"quantization.bits={config.quantization.bits}": config.quantization.bits,
        "precision=fp8": config.precision.kind == "fp8",
    }
    with_zero: dict[str, object] = {
        f"optimizer={config.optimizer.kind}": config.optimizer.kind == "muon",
        "zero.offload_optimizer": config.zero.offload_optimizer,
        "zero.offload_parameters": config.zero.offload_parameters,
    }
    untried |= in_one_graph if kind != compilation.BLOCKS else {}
    untried |= with_zero if kind == compilation.DEEPCOMPILE else {}
    check_compile(config.compile, kind, config.zero.stage, config.lora.rank, untried)
    between: dict[str, object] = {
        f"objective={config.objective.kind}": config.objective.kind != "pretrain",
        f"recomputed={HOST}": recomputes and config.recomputed == HOST,
    }
    check_one_graph(kind, between)
    if config.compile and recomputes and config.recomputed == CHEAP:
        raise UserError(
            f"compile=true with recomputed={config.recomputed}: a graph chooses itself what it keeps; leave that out"
        )


def plan_run(config: TrainConfig) -> list[Segment]:
    """Return the segments of a run, within which batch and sequence length stay. Raises UserError."""
    data, batch = config.data, config.batch
    return plan_segments(data.sequence_length, batch.sequences, data.stages, data.ramp, batch.ramp)


def deciding(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the flattened settings that decide what a run learns."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        dotted = prefix + key
        if dotted in FREE_TO_CHANGE:
            continue
        if isinstance(value, dict):
            found |= deciding(value, dotted + ".")
        else:
            found[dotted] = value
    return found
