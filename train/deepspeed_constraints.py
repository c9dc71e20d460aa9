"""Which of DeepSpeed's options can't be had together, or not with us: one table, each row with where it is known from.

DeepSpeed asserts some of these in the middle of its start, ignores others, and runs the rest wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError

if TYPE_CHECKING:
    from train.deepspeed_settings import ZeroConfig
    from train.precision import PrecisionConfig


@dataclass(frozen=True)
class Asked:
    """What a run asks of DeepSpeed.

    Args:
        passed: options that go through to it as they are, nested as in its own configuration.
    """

    zero: ZeroConfig
    precision: PrecisionConfig
    passed: Mapping[str, Any] = field(default_factory=dict)

    def option(self, dotted: str) -> Any:
        """Return an option that goes through, by its dotted name, or None where it isn't given."""
        value: Any = self.passed
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True)
class Constraint:
    """One row.

    Args:
        name: what it is about.
        broken: whether what is asked breaks it.
        message: what the user is told; `{zero}` and `{precision}` stand for their settings.
        source: where it is known from: a file of DeepSpeed 0.19.8, an issue of its repository, or a measurement.
    """

    name: str
    broken: Callable[[Asked], bool]
    message: str
    source: str


def _given(dotted: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.option(dotted) is not None


def _refused(option: str, why: str, source: str) -> Constraint:
    """Return the row of an option that can't be passed through at all."""
    return Constraint(option, _given(option), f"deepspeed.{option} is not supported: {why}", source)


CONSTRAINTS = (
    Constraint(
        "16 bits without ZeRO",
        lambda asked: asked.zero.stage == 0 and asked.precision.kind != "fp32",
        "precision={precision.kind} with zero=0: DeepSpeed's optimizer for that pair counts its first step twice; "
        "use zero=1, which costs the same on one process and less on many",
        "runtime/fp16/unfused_optimizer.py, initialize_optimizer_states; measured: a count of 2.0 after one step",
    ),
    Constraint(
        "offloaded optimizer",
        lambda asked: asked.zero.offload_optimizer and asked.zero.stage == 0,
        "zero.offload_optimizer needs zero=1, 2 or 3: at stage 0 DeepSpeed ignores it",
        "runtime/engine.py, _configure_optimizer: offload is looked at only where there is a ZeRO optimizer",
    ),
    Constraint(
        "offloaded parameters",
        lambda asked: asked.zero.offload_parameters and asked.zero.stage != 3,
        "zero.offload_parameters needs zero=3, not {zero.stage}: only there are parameters partitioned",
        "runtime/zero/config.py, offload_param: valid only with stage 3",
    ),
    Constraint(
        "overlap without ZeRO",
        lambda asked: asked.zero.overlap_communication and asked.zero.stage == 0,
        "zero.overlap_communication needs zero=1, 2 or 3: at stage 0 DeepSpeed reduces after the backward pass",
        "runtime/engine.py, allreduce_gradients",
    ),
    Constraint(
        "odd gather bucket",
        lambda asked: asked.zero.stage in (1, 2) and asked.zero.gather_bucket % 2 == 1,
        "zero.gather_bucket={zero.gather_bucket} must be even at zero={zero.stage}: DeepSpeed aligns what it gathers",
        "runtime/zero/stage_1_and_2.py, nccl_start_alignment_factor",
    ),
    Constraint(
        "gradients scaled before they are summed",
        lambda asked: asked.zero.stage == 2 and bool(asked.option("prescale_gradients")),
        "deepspeed.prescale_gradients needs zero=0, 1 or 3: at stage 2 gradients are scattered, and DeepSpeed refuses",
        "runtime/zero/stage_1_and_2.py, assertion on reduce_scatter and postscale_gradients",
    ),
    Constraint(
        "gradients divided before they are summed",
        lambda asked: asked.zero.stage == 2 and asked.option("gradient_predivide_factor") not in (None, 1, 1.0),
        "deepspeed.gradient_predivide_factor needs zero=0, 1 or 3: at stage 2 DeepSpeed refuses all but 1",
        "runtime/zero/stage_1_and_2.py, assertion on reduce_scatter and gradient_predivide_factor",
    ),
    _refused(
        "torch_autocast",
        "weights, activations and gradients have one precision here; use precision=bf16 and zero=1 or more",
        "runtime/torch_autocast.py: weights stay float32, and its dtype is named a second time beside bf16's",
    ),
    _refused(
        "checkpoint",
        "checkpoints are ours, by parameter, and go from any stage to any other; universal loading left on would also "
        "spoil the next save",
        "runtime/engine.py, load_universal_checkpoint; measured: stages 1 to 3, 2 to 3 and 2 to 0 fail",
    ),
    _refused(
        "zero_optimization.save_muon_momentum_buffer_in_memory",
        "optimizer=muon is ours; of its own DeepSpeed runs SGD at stage 0, and clips it wrongly at 1 and 2",
        "deepspeedai/DeepSpeed#8441; measured: losses at stages 1 and 2 with clipping",
    ),
    _refused(
        "zero_optimization.load_from_fp32_weights",
        "checkpoints are ours, by parameter",
        "runtime/zero/config.py, load_from_fp32_weights",
    ),
    _refused(
        "zero_optimization.zenflow",
        "it overwrites the gradient accumulation (DeepSpeed 0.19)",
        "runtime/zenflow/engine.py, configure_zenflow",
    ),
    _refused(
        "zero_optimization.super_offload",
        "it needs DeepSpeed's own CPU optimizer",
        "runtime/superoffload/superoffload_utils.py, which imports DeepSpeedCPUAdam",
    ),
    _refused(
        "zero_optimization.zero_hpz_partition_size",
        "a secondary partition isn't in our checkpoints",
        "runtime/zero/config.py, zero_hpz_partition_size",
    ),
    _refused(
        "zero_optimization.compute_grad_norm",
        "every step is judged by it",
        "train/guard.py",
    ),
    _refused(
        "zero_optimization.mics_shard_size",
        "partitions that differ between groups aren't in our checkpoints",
        "runtime/zero/config.py, mics_shard_size",
    ),
)


def check_constraints(asked: Asked) -> None:
    """Refuse the first row that is broken.

    Raises:
        UserError: names the settings, the reason and the mend.
    """
    for row in CONSTRAINTS:
        if row.broken(asked):
            raise UserError(row.message.format(zero=asked.zero, precision=asked.precision))
