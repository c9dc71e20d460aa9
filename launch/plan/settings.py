"""Everything that `plan` is told: the root of `conf/plan.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.configuration import register
from data_pipeline.foundation.errors import UserError
from launch.plan.failures import FailuresConfig
from launch.plan.hardware import Cluster, DeviceConfig, NetworkConfig
from train.batch import BatchConfig, plan_batch
from train.deepspeed_settings import ZeroConfig
from train.model.recomputation import BLOCKS, check_recomputed
from train.model.transformer import TransformerConfig
from train.optimizer import OptimizerConfig, check_optimizer
from train.parallel import ParallelConfig, check_parallel
from train.precision import PrecisionConfig


@dataclass
class PlanDataConfig:
    """Of the data, what a plan depends on.

    Args:
        sequence_length: tokens of a model's input.
        vocabulary: of the dataset's tokenizer, for a model that leaves it open.
    """

    sequence_length: int = 4096
    vocabulary: int = 32_768


@dataclass
class PlanBatchConfig:
    """What the step learns from.

    Args:
        sequences: of a step over all devices; None for about a million tokens.
        micro: of one forward pass on one device; None tries all that divide.
    """

    sequences: int | None = None
    micro: int | None = None


@dataclass
class PlanConfig:
    """A run to be planned.

    Args:
        zero: buckets, overlap and threshold; the stage is planned.
        parallel: devices that share each sequence, or split each block.
        nodes: machines.
        devices_per_node: devices of each, one process on each device.
        stages: ZeRO stages to consider.
        offload: consider offload, too.
        activation_checkpointing: True or False; None considers both.
        recomputed: what it recomputes, as `train` has it.
        tokens: to be trained on; None for 20 per parameter (Hoffmann et al. 2022).
        price: of a device and hour; None leaves out the cost.
        goodput_at: numbers of devices to work out failures for.
        output: a page with the picture.
        folder: where `--apply` writes the recommendation as an experiment of its own.
    """

    model: TransformerConfig = field(default_factory=TransformerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    nodes: int = 1
    devices_per_node: int = 8
    stages: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    offload: bool = False
    activation_checkpointing: bool | None = None
    recomputed: str = BLOCKS
    data: PlanDataConfig = field(default_factory=PlanDataConfig)
    batch: PlanBatchConfig = field(default_factory=PlanBatchConfig)
    tokens: float | None = None
    price: float | None = None
    failures: FailuresConfig = field(default_factory=FailuresConfig)
    goodput_at: list[int] = field(default_factory=lambda: [8, 64, 512, 4096, 16384])
    output: str | None = None
    folder: str = "planned"

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.device, self.network, self.nodes, self.devices_per_node)

    @property
    def readers(self) -> int:
        """Devices that read different sequences; those that share one, or split the model, count as one."""
        return self.cluster.devices // self.parallel.together


def register_plan() -> None:
    """Make the schemas known to Hydra."""
    register("plan_schema", PlanConfig)


def check_plan(config: PlanConfig) -> None:
    """Refuse what can't be planned.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    check_optimizer(config.optimizer)
    check_recomputed(config.recomputed)
    counts: dict[str, float] = {"nodes": config.nodes, "devices_per_node": config.devices_per_node}
    counts |= {"data.sequence_length": config.data.sequence_length, "data.vocabulary": config.data.vocabulary}
    optional = {"batch.sequences": config.batch.sequences, "batch.micro": config.batch.micro, "tokens": config.tokens}
    counts |= {key: value for key, value in optional.items() if value is not None}
    counts |= {f"goodput_at[{number}]": devices for number, devices in enumerate(config.goodput_at)}
    for key, value in counts.items():
        if value < 1:
            raise UserError(f"{key}={value} must be at least 1")
    positive = {f"device.{key}": getattr(config.device, key) for key in SHEET} | {
        "network.bandwidth": config.network.bandwidth,
        "failures.device_hours": config.failures.device_hours,
        "failures.storage_bandwidth": config.failures.storage_bandwidth,
    }
    for key, value in positive.items():
        if value <= 0:
            raise UserError(f"{key}={value} must be above 0")
    if config.failures.restart_seconds < 0 or (config.price or 0) < 0 or config.network.latency < 0:
        raise UserError("failures.restart_seconds, price and network.latency must not be below 0")
    if config.precision.kind not in config.device.peak_flops:
        known = ", ".join(config.device.peak_flops)
        raise UserError(f"precision={config.precision.kind}: the sheet of {config.device.name} knows {known}")
    if config.zero.stage or config.zero.offload_optimizer or config.zero.offload_parameters:
        raise UserError(
            "zero.stage and zero.offload_… are what is planned: narrow them with stages=[…] and offload=true"
        )
    if not config.stages or set(config.stages) - {0, 1, 2, 3}:
        raise UserError(f"stages={config.stages} must be some of 0, 1, 2 and 3")
    if config.data.sequence_length > config.model.maximum_length:
        raise UserError(
            f"data.sequence_length={config.data.sequence_length} is longer than the model allows "
            f"(model.maximum_length={config.model.maximum_length}): shorten the one or raise the other"
        )
    check_parallel(config.parallel, config.cluster.devices, "pretrain")
    if config.batch.sequences is not None:
        plan_batch(BatchConfig(config.batch.sequences, config.batch.micro), config.readers)


SHEET = (
    "memory",
    "memory_bandwidth",
    "link_bandwidth",
    "host_bandwidth",
    "matrix_efficiency",
    "attention_efficiency",
    "bandwidth_efficiency",
)
