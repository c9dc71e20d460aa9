"""How ranks share the work beyond reading different sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch.distributed as distributed

from data_pipeline.foundation.errors import UserError
from data_pipeline.loader import Batch, Share
from train.distributed import World
from train.model.shared_sequence import SharedSequence
from train.model.transformer import TransformerConfig


@dataclass
class ParallelConfig:
    """How ranks share the work.

    Args:
        sequence: neighbouring ranks that share each sequence, for contexts whose activations are too much for one. They
            exchange heads for tokens around attention; all ranks together partition the state, as ZeRO has it.
    """

    sequence: int = 1


WHOLE_SEQUENCES = {
    "dpo": "compares whole answers",
    "grpo": "writes whole answers",
    "distillation": "has a teacher that reads whole sequences",
}
"""Objectives that parts of sequences don't do for, each with the reason."""


def check_parallel(config: ParallelConfig, ranks: int, objective: str) -> None:
    """Refuse what can't be shared, whatever the model.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    if config.sequence < 1:
        raise UserError(f"parallel.sequence={config.sequence} must be at least 1")
    if config.sequence == 1:
        return
    if ranks % config.sequence:
        raise UserError(
            f"parallel.sequence={config.sequence} does not divide the {ranks} ranks of this run: start a multiple of "
            "it, or share sequences among fewer"
        )
    if objective in WHOLE_SEQUENCES:
        raise UserError(
            f"parallel.sequence={config.sequence} with objective={objective}, which {WHOLE_SEQUENCES[objective]}: "
            "leave parallel.sequence out"
        )


def check_shares(config: ParallelConfig, model: TransformerConfig, lengths: Iterable[int]) -> None:
    """Refuse heads and sequences that don't divide.

    Args:
        model: resolved.
        lengths: of all sequences of a run.

    Raises:
        UserError: names the setting and what would divide.
    """
    ranks = config.sequence
    for key in ("heads", "key_value_heads"):
        if getattr(model, key) % ranks:
            raise UserError(
                f"parallel.sequence={ranks} does not divide model.{key}={getattr(model, key)}: each rank attends with "
                "an equal part of the heads"
            )
    for length in lengths:
        if length % ranks:
            raise UserError(
                f"parallel.sequence={ranks} does not divide sequences of {length} tokens: each rank has an equal part"
            )


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
