"""Which part of the data a rank has, and with whom it shares it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.distributed as distributed

from data_pipeline.loader import Batch, Share
from train.distributed import World
from train.model.shared_sequence import SharedSequence
from train.parallel import ParallelConfig


@dataclass(frozen=True)
class Place:
    """Which share of the data a rank has.

    Args:
        reader: which of `readers` that read different sequences; the ranks that share sequences are one.
        shared: with whom this rank shares sequences, or None.
    """

    reader: int
    readers: int
    shared: SharedSequence | None = None

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
    size = config.sequence
    if size == 1:
        return Place(world.rank, world.size)
    # Neighbours, who have the fastest links; every rank must make every group.
    groups = [distributed.new_group(list(range(first, first + size))) for first in range(0, world.size, size)]
    number = world.rank // size
    shared = SharedSequence(groups[number], world.rank % size, size)
    return Place(number, world.size // size, shared)
