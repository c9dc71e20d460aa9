"""Gradients of ZeRO stage 1 on CPUs, summed where they are and sent to whoever steps them. Knows DeepSpeed's objects.

DeepSpeed copies all gradients into one flat tensor, sums that on every rank and copies it back. Here each gradient goes
to the rank that holds its moments, half of what an all-reduce sends, without a copy; only what lies across the border
of two partitions is summed on all. On GPUs a kernel launch for each gradient would cost more than the copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from train.deepspeed_settings import ZeroConfig


def sums_in_place(zero: ZeroConfig, ranks: int, is_gpu: bool, is_fp32: bool) -> bool:
    """Return whether gradients are summed so: by several ranks at stage 1, in float32, on CPUs, nothing offloaded."""
    return zero.stage == 1 and ranks > 1 and is_fp32 and not is_gpu and not zero.offload_optimizer


def reduce_in_place(optimizer: Any, among: distributed.ProcessGroup | None = None) -> None:
    """Let DeepSpeed's optimizer of stage 1 sum gradients in place; of the sums it reads only its own partition's.

    Args:
        among: the ranks that partition; all if None.
    """
    rank, ranks = distributed.get_rank(among), distributed.get_world_size(among)

    def reduce(_: Any, gradients: list[Tensor], kind: torch.dtype, **__: Any) -> None:
        parameters = optimizer.ipg_buckets[kind].params
        whose = [optimizer.param_to_partition_ids[group][number] for group, _, number in parameters]
        waited_for = [
            distributed.reduce(gradient, group=among, group_dst=owners[0], async_op=True)
            if len(owners) == 1
            else distributed.all_reduce(gradient, group=among, async_op=True)
            for gradient, owners in zip(gradients, whose, strict=True)
        ]
        for work in waited_for:
            work.wait()
        mine = [gradient for gradient, owners in zip(gradients, whose) if rank in owners]
        if mine:
            torch._foreach_div_(mine, ranks)

    optimizer.buffered_reduce_fallback = reduce
