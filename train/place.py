"""Which part of the data a rank has, and with whom it shares it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.distributed as distributed

from data_pipeline.loader import Batch, Share
from train.distributed import World
from train.model.shared_sequence import SharedSequence
from train.model.split_layers import SplitLayers
from train.model_parallel import ModelParallelUnit
from train.parallel import ParallelConfig


@dataclass(frozen=True)
class Place:
    """Which share of the data a rank has.

    Args:
        reader: which of `readers` that read different sequences; ranks that share sequences or split a model are one.
        shared: with whom this rank shares sequences, or None.
        unit: with whom it splits the model, and who holds the same part, or None.
    """

    reader: int
    readers: int
    shared: SharedSequence | None = None
    unit: ModelParallelUnit | None = None

    @property
    def split(self) -> SplitLayers | None:
        """With whom this rank splits the model, or None."""
        return None if self.unit is None else self.unit.split

    @property
    def partitioning(self) -> distributed.ProcessGroup | None:
        """The ranks that ZeRO partitions over; None is all of them."""
        return None if self.unit is None else self.unit.group

    @property
    def counts(self) -> bool:
        """Whether what this rank reads is to be counted: others read the same where they split a model."""
        return self.unit is None or self.unit.split.number == 0

    def share(self, micro: int) -> Share:
        """Return what this rank reads of each step."""
        return Share(micro, self.reader, self.readers)

    def part(self, batch: Batch) -> Batch:
        """Return this rank's part of a batch that it has read; where documents end stays known of whole sequences."""
        if self.shared is None:
            return batch
        return replace(batch, tokens=self.shared.part(batch.tokens), targets=self.shared.part(batch.targets))


def find_place(config: ParallelConfig, world: World) -> Place:
    """Return this rank's place. Every rank calls it; `config` must be checked."""
    size, readers = config.together, world.size // config.together
    if size == 1:
        return Place(world.rank, world.size)
    # Neighbours, who have the fastest links; every rank must make every group.
    groups = [distributed.new_group(list(range(first, first + size))) for first in range(0, world.size, size)]
    reader, number = divmod(world.rank, size)
    if config.sequence > 1:
        return Place(reader, readers, SharedSequence(groups[reader], number, size))
    alike = [distributed.new_group(list(range(first, world.size, size))) for first in range(size)]
    split = SplitLayers(groups[reader], number, size)
    return Place(reader, readers, unit=ModelParallelUnit(split, alike[number]))
