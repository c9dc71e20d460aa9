"""DeepSpeed's configuration, built from typed groups and checked before DeepSpeed is started.

DeepSpeed ignores top-level keys that it doesn't know, so a spelling mistake would go unseen. What users want beyond our
groups passes through `deepspeed.KEY=VALUE`, and only keys listed here pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from data_pipeline.foundation.configuration import nearest
from data_pipeline.foundation.errors import UserError
from train.batch import BatchPlan
from train.deepspeed_constraints import Asked, check_constraints
from train.extensions import import_deepspeed
from train.precision import DTYPES, PrecisionConfig


@dataclass
class ZeroConfig:
    """How ZeRO spreads the training state over ranks (Rajbhandari et al. 2020).

    Args:
        stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.
        offload_optimizer: keep optimizer state in host memory (stages 1 to 3).
        offload_parameters: keep parameters in host memory (stage 3).
        overlap_communication: reduce gradients while the backward pass goes on.
        reduce_bucket: elements reduced at once.
        gather_bucket: elements gathered at once (stages 1 and 2) or fetched ahead (stage 3), and of matrices that Muon
            brings together.
        persistence_threshold: at stage 3, parameters smaller than this stay whole on every rank.
    """

    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    overlap_communication: bool = False
    reduce_bucket: int = 50_000_000
    gather_bucket: int = 50_000_000
    persistence_threshold: int = 100_000


PASSED_THROUGH = (
    "comms_logger",
    "communication_data_type",
    "data_types",
    "disable_allgather",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "sparse_gradients",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_optimization",
)

FILE_OPTION = re.compile(r"(^|_)(file|path|folder|dir|directory)$")

OURS = {
    "activation_checkpointing": "activation_checkpointing=true",
    "bf16": "precision=bf16",
    "compile": "compile=true and compiled=",
    "fp16": "precision=fp16",
    "gradient_accumulation_steps": "batch.sequences and batch.micro",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "optimizer=",
    "scheduler": "schedule=",
    "train_batch_size": "batch.sequences",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "wandb": "tracker=wandb",
    "zero_optimization.stage": "zero=0…3",
    "zero_optimization.offload_optimizer": "zero.offload_optimizer",
    "zero_optimization.offload_param": "zero.offload_parameters",
    "zero_optimization.overlap_comm": "zero.overlap_communication",
    "zero_optimization.reduce_bucket_size": "zero.reduce_bucket",
    "zero_optimization.allgather_bucket_size": "zero.gather_bucket",
    "zero_optimization.stage3_prefetch_bucket_size": "zero.gather_bucket",
    "zero_optimization.stage3_param_persistence_threshold": "zero.persistence_threshold",
}


def check_zero(zero: ZeroConfig, precision: PrecisionConfig, passed_through: dict[str, Any]) -> None:
    """Refuse values that there aren't, and combinations that DeepSpeed runs wrongly or not at all.

    Raises:
        UserError: names the settings, the reason and the mend.
    """
    if precision.kind not in DTYPES:
        raise UserError(f"precision.kind={precision.kind}: there are {', '.join(DTYPES)}")
    if zero.stage not in (0, 1, 2, 3):
        raise UserError(f"zero.stage={zero.stage}: there are stages 0, 1, 2 and 3")
    if min(zero.reduce_bucket, zero.gather_bucket) < 1 or zero.persistence_threshold < 0:
        raise UserError(
            "zero.reduce_bucket and zero.gather_bucket must be at least 1, persistence_threshold at least 0"
        )
    check_constraints(Asked(zero, precision, passed_through))


def run_as(
    zero: ZeroConfig, precision: PrecisionConfig, ranks: int, passed_through: dict[str, Any], in_graph: bool = False
) -> ZeroConfig:
    """Return what does the same in less time and memory.

    One process has nobody to share with: in float32 stages 1 to 3 would copy weights and gradients to and fro, and hold
    them twice, for nothing. What is offloaded, in 16 bits, has options of its own or is compiled into the model's graph
    stays as it is asked for.
    """
    is_alone = ranks == 1 and precision.kind == "fp32" and "zero_optimization" not in passed_through
    if is_alone and not (zero.offload_optimizer or zero.offload_parameters or in_graph):
        return ZeroConfig(stage=0)
    return zero


def _refuse_code_and_paths(options: Any, prefix: str) -> None:
    if isinstance(options, list):
        for number, value in enumerate(options):
            _refuse_code_and_paths(value, f"{prefix}[{number}]")
    elif isinstance(options, dict):
        for key, value in options.items():
            if str(key).startswith("_"):
                raise UserError(f"{prefix}.{key}: a setting can't name code to run")
            if FILE_OPTION.search(str(key)):
                raise UserError(f"{prefix}.{key}: DeepSpeed may write no files of its own; it prints what it measures")
            _refuse_code_and_paths(value, f"{prefix}.{key}")


def check_passed_through(options: dict[str, Any]) -> None:
    """Refuse options for DeepSpeed that it would ignore, that are ours to set, or that break our guarantees.

    Raises:
        UserError: names the key and the mend.
    """
    _refuse_code_and_paths(options, "deepspeed")
    for key, value in options.items():
        if key in OURS:
            raise UserError(f"deepspeed.{key} is set by {OURS[key]}: use that")
        if key not in PASSED_THROUGH:
            raise UserError(
                f"deepspeed.{key} does not pass through.{nearest(key, PASSED_THROUGH)} "
                f"These do: {', '.join(PASSED_THROUGH)}"
            )
        if key == "zero_optimization":
            if not isinstance(value, dict):
                raise UserError("deepspeed.zero_optimization takes options: deepspeed.zero_optimization.KEY=VALUE")
            _check_zero_options(value)


def _check_zero_options(options: dict[str, Any]) -> None:
    known = list(import_deepspeed().runtime.zero.config.DeepSpeedZeroConfig.model_fields)
    for key in options:
        dotted = f"zero_optimization.{key}"
        if dotted in OURS:
            raise UserError(f"deepspeed.{dotted} is set by {OURS[dotted]}: use that")
        if key not in known:
            raise UserError(f"DeepSpeed has no option {dotted}.{nearest(key, known)}")


def deepspeed_settings(
    batch: BatchPlan,
    zero: ZeroConfig,
    precision: PrecisionConfig,
    clip_norm: float,
    passed_through: dict[str, Any],
    in_graph: bool,
) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`.

    At stage 0 DeepSpeed neither reports nor keeps the gradient norm that it clips by, so there clipping is ours.
    """
    partitioning: dict[str, Any] = {"stage": zero.stage}
    if zero.stage:
        partitioning.update(
            overlap_comm=zero.overlap_communication,
            reduce_bucket_size=zero.reduce_bucket,
            allgather_bucket_size=zero.gather_bucket,
            contiguous_gradients=zero.stage > 1,
        )
    if zero.stage == 3:
        partitioning.update(
            stage3_prefetch_bucket_size=zero.gather_bucket,
            stage3_param_persistence_threshold=zero.persistence_threshold,
        )
    if zero.offload_optimizer:
        partitioning["offload_optimizer"] = {"device": "cpu"}
    if zero.offload_parameters:
        partitioning["offload_param"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_batch_size": batch.sequences,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": clip_norm if zero.stage else 0.0,
        # PyTorch's fused AdamW runs on offloaded state too; DeepSpeed's own would compile C++ at the first start.
        "zero_force_ds_cpu_optimizer": False,
        # Our own optimizers are tested under every stage here.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 62,
        "zero_optimization": partitioning,
    }
    if DTYPES[precision.kind] == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
    if in_graph:
        settings["compile"] = {"deepcompile": True}
    if precision.kind == "fp16":
        settings["fp16"] = {"enabled": True, "initial_scale_power": precision.initial_scale_power}
    for key, value in passed_through.items():
        if key == "zero_optimization":
            partitioning.update(value)
        else:
            settings[key] = value
    return settings
