"""Seconds of a step: computing, moving data through memory, communicating, and what of that is hidden behind what."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.communication import every, exchange_seconds, gather_seconds, neighbours, reduce_seconds
from launch.plan.hardware import Cluster
from launch.plan.work import Work
from train.deepspeed_settings import ZeroConfig
from train.memory.footprint import LIVE_PARAMETERS
from train.memory.layout import BYTES, Layout
from train.model import recomputation

BACKWARD_MATRIX = 2.0
"""Two products for each of the forward pass: by the weights and by the inputs."""

BACKWARD_ATTENTION = 2.5
"""Five products for two, one of them recomputed (Dao 2023, FlashAttention-2)."""

BACKWARD_MOVED = 2.0
UPDATE_BYTES = 28
"""Of AdamW per parameter in float32: weight, gradient and two moments read, all but the gradient written."""


@dataclass(frozen=True)
class Traffic:
    """What of a step's communication there is, and what hides it.

    Args:
        gathers: passes of a micro-batch for which all weights are gathered.
        gather_bytes: of a weight in them.
        reduces: whether each micro-batch reduces its gradients, not only the step.
        reduce_bytes: of a gradient.
        all_reduce: gradients are summed whole on every rank, not scattered.
        update_bytes: of a weight that is gathered after the update; 0 where weights stay partitioned.
        gathers_hidden: gathers run beside computing.
        reduces_hidden: reductions run beside computing.
    """

    gathers: int
    gather_bytes: int
    reduces: bool
    reduce_bytes: int
    all_reduce: bool
    update_bytes: int
    gathers_hidden: bool
    reduces_hidden: bool


@dataclass(frozen=True)
class Recomputed:
    """Shares of the blocks' forward pass that are done again in the backward pass."""

    matrix: float = 0.0
    attention: float = 0.0
    moved: float = 0.0


BLOCKS = Recomputed(1.0, 1.0, 1.0)
"""Whole blocks."""

AGAIN = {
    recomputation.BLOCKS: BLOCKS,
    recomputation.CHEAP: Recomputed(moved=1.0),
    recomputation.HOST: BLOCKS,
}
"""By what our activation checkpointing is told to recompute."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, part by part; what is hidden behind computing isn't in it.

    Args:
        matrix: matrix products, attention left out.
        moved: kernels that only move data, the loss's with them.
        recomputed: once more, because of activation checkpointing.
        communication: nothing is computed meanwhile.
        update: of the optimizer, or of the copies to where it runs.
        hidden: communication beside computing, not part of the sum.
    """

    matrix: float
    attention: float
    moved: float
    recomputed: float
    communication: float
    update: float
    hidden: float

    @property
    def total(self) -> float:
        return self.matrix + self.attention + self.moved + self.recomputed + self.communication + self.update


def traffic_of(zero: ZeroConfig, element: int, parameters: int) -> Traffic:
    """Return what DeepSpeed sends at a stage.

    Stages 0 and 1 reduce once a step, stages 2 and 3 with every micro-batch. Stage 3 gathers for the forward pass and,
    where more weights than it keeps have been given back since, for the backward pass; it fetches ahead. Reductions
    stand in the way of computing unless `overlap_communication` is on.
    """
    sharded = zero.stage == 3
    return Traffic(
        gathers=(1 if parameters <= LIVE_PARAMETERS else 2) if sharded else 0,
        gather_bytes=element,
        reduces=zero.stage >= 2,
        reduce_bytes=element,
        all_reduce=zero.stage < 3,
        update_bytes=element if zero.stage in (1, 2) else 0,
        gathers_hidden=True,
        reduces_hidden=zero.overlap_communication,
    )


def step_time(
    work: Work,
    layout: Layout,
    cluster: Cluster,
    traffic: Traffic | None = None,
    recomputed: Recomputed | None = None,
) -> StepTime:
    """Return the time of a step of `layout.accumulation` micro-batches.

    Args:
        work: of one rank.
        traffic: for another way to communicate than DeepSpeed's.
        recomputed: for another way to recompute than the layout's.

    Hidden communication costs nothing as long as there is computing to hide it.
    """
    device, element = cluster.device, layout.element
    traffic = traffic or traffic_of(layout.zero, element, work.parameters)
    again = recomputed or (AGAIN[layout.recomputed] if layout.activation_checkpointing else Recomputed())
    matrix = work.matrix_flops / (device.peak_flops[layout.precision] * device.matrix_efficiency)
    blocks = (work.matrix_flops - work.head_flops) / work.matrix_flops * matrix
    attention = work.attention_flops / (device.peak_flops[layout.precision] * device.attention_efficiency)
    pace = device.memory_bandwidth * device.bandwidth_efficiency
    moved = work.moved * element / pace
    tokens = layout.tokens * layout.accumulation
    computing = {
        "matrix": tokens * matrix * (1 + BACKWARD_MATRIX),
        "attention": tokens * attention * (1 + BACKWARD_ATTENTION),
        "moved": tokens * (moved * (1 + BACKWARD_MOVED) + work.loss_bytes / pace),
        "recomputed": tokens * (again.matrix * blocks + again.attention * attention + again.moved * moved),
    }
    seen, hidden = _communication(work.parameters, layout, every(cluster, layout.tensor_ranks), traffic)
    seen += _exchange(work, layout, cluster) + _sums(work, layout, cluster) + _waiting_on_host(work, layout, cluster)
    excess = max(0.0, hidden - sum(computing.values()))
    return StepTime(
        **computing,
        communication=seen + excess,
        update=_update(work.parameters, layout, cluster) + _orthogonalising(work, layout, cluster),
        hidden=hidden - excess,
    )


def _communication(parameters: int, layout: Layout, cluster: Cluster, traffic: Traffic) -> tuple[float, float]:
    """Return the seconds of a step's communication that stand in the way, and those that run beside computing."""
    reduce = reduce_seconds if traffic.all_reduce else gather_seconds
    pieces = max(1, parameters // layout.zero.reduce_bucket)
    reductions = layout.accumulation if traffic.reduces else 1
    reducing = reductions * reduce(cluster, parameters * traffic.reduce_bytes, pieces)
    gathering = layout.accumulation * traffic.gathers * gather_seconds(
        cluster, parameters * traffic.gather_bytes, max(1, parameters // layout.zero.gather_bucket)
    )  # fmt: skip
    updating = gather_seconds(cluster, parameters * traffic.update_bytes) if traffic.update_bytes else 0.0
    hidden = (gathering if traffic.gathers_hidden else 0.0) + (reducing if traffic.reduces_hidden else 0.0)
    return gathering + reducing + updating - hidden, hidden


def _exchange(work: Work, layout: Layout, cluster: Cluster) -> float:
    """Return the time of the exchanges around attention, for which its layer waits: there and back, in each pass."""
    if layout.sequence_ranks == 1:
        return 0.0
    passes = layout.accumulation * (3 if layout.activation_checkpointing else 2)
    return passes * exchange_seconds(cluster, layout.tokens * work.exchanged * layout.element, layout.sequence_ranks)


def _sums(work: Work, layout: Layout, cluster: Cluster) -> float:
    """Return the time of the sums over the ranks that split blocks, for which every layer waits: once in each pass."""
    if layout.tensor_ranks == 1:
        return 0.0
    passes = layout.accumulation * (3 if layout.activation_checkpointing else 2)
    size = layout.tokens * work.summed * layout.element
    return passes * reduce_seconds(neighbours(cluster, layout.tensor_ranks), size, work.sums)


def _waiting_on_host(work: Work, layout: Layout, cluster: Cluster) -> float:
    """Return the time of copies of blocks' inputs to host memory and back, which computing stands in line behind."""
    if not (layout.activation_checkpointing and layout.recomputed == recomputation.HOST):
        return 0.0
    copied = layout.accumulation * layout.tokens * work.boundaries * layout.element
    return 2 * copied / cluster.device.host_bandwidth


def _update(parameters: int, layout: Layout, cluster: Cluster) -> float:
    """Return the time of AdamW on this rank's share; offloaded, gradients go to the host and weights come back."""
    mine = parameters / (layout.ranks if layout.zero.stage else 1)
    device = cluster.device
    if layout.zero.offload_optimizer:
        return mine * (2 * BYTES[layout.precision] / device.host_bandwidth + UPDATE_BYTES / HOST_MEMORY)
    return mine * UPDATE_BYTES / (device.memory_bandwidth * device.bandwidth_efficiency)


def _orthogonalising(work: Work, layout: Layout, cluster: Cluster) -> float:
    """Return the time of Muon's iterations, in 16 bits on a GPU, and of bringing its matrices together.

    At stage 0 every rank works on all, at others on its share; at stage 3 all of that is exchanged, there and back.
    """
    device = cluster.device
    peak = device.peak_flops.get("bf16" if device.is_gpu else "fp32", device.peak_flops[layout.precision])
    computing = work.orthogonal_flops / (layout.ranks if layout.zero.stage else 1) / (peak * device.matrix_efficiency)
    exchanged = 4.0 * work.orthogonal / layout.ranks if layout.zero.stage == 3 else 0.0
    return computing + (2 * gather_seconds(cluster, exchanged) if exchanged else 0.0)


HOST_MEMORY = 20e9
"""Bytes per second of a process's share of host memory, where an offloaded update runs. An assumption."""
