"""What DeepSpeed asks of ranks that split a model between them, by the names that it calls: its `mpu`.

It then partitions and reduces over the ranks that hold the same part, and counts in a gradient's norm what is whole on
all ranks once (runtime/engine.py, runtime/zero/stage_1_and_2.py and stage3.py of DeepSpeed 0.19.8).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import distributed
from torch.distributed import ProcessGroup

from train.model.split_layers import SplitLayers


@dataclass(frozen=True)
class ModelParallelUnit:
    """This rank among those that split the model, and among those that hold the same part of it.

    Args:
        group: of the latter.
    """

    split: SplitLayers
    group: ProcessGroup

    def get_model_parallel_group(self) -> ProcessGroup | None:
        return self.split.group

    def get_model_parallel_rank(self) -> int:
        return self.split.number

    def get_model_parallel_world_size(self) -> int:
        return self.split.ranks

    def get_data_parallel_group(self) -> ProcessGroup:
        return self.group

    def get_data_parallel_rank(self) -> int:
        return distributed.get_rank(self.group)

    def get_data_parallel_world_size(self) -> int:
        return distributed.get_world_size(self.group)
