"""What a run learns from a batch. One trainer, many objectives, each found by name in a fixed registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from data_pipeline.foundation.errors import UserError
from data_pipeline.loader import Batch
from train.objective.pretrain import Pretrain


@dataclass
class ObjectiveConfig:
    """The objective.

    Args:
        kind: `pretrain`: the next token of running text.
        z_loss: weight of the squared log-partition; 1e-4 where logits drift.
    """

    kind: str = "pretrain"
    z_loss: float = 0.0


class Objective(Protocol):
    """An objective sums its loss over targets; the trainer divides by the targets of the whole step."""

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def target_count(self, batch: Batch) -> int: ...


KINDS = {"pretrain": Pretrain}


def build_objective(config: ObjectiveConfig, document_mask: bool) -> Objective:
    """Return the objective of that name.

    Raises:
        UserError: there is none.
    """
    if config.kind not in KINDS:
        raise UserError(f"objective.kind={config.kind}: there are {', '.join(KINDS)}")
    return KINDS[config.kind](config.z_loss, document_mask)
