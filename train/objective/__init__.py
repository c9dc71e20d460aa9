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


def check_objective(config: ObjectiveConfig) -> None:
    """Raise UserError for an objective that there isn't, or settings outside their range."""
    if config.kind not in KINDS:
        raise UserError(f"objective.kind={config.kind}: there are {', '.join(KINDS)}")
    if config.z_loss < 0:
        raise UserError(f"objective.z_loss={config.z_loss} must not be below 0")


def build_objective(config: ObjectiveConfig, document_mask: bool) -> Objective:
    """Return the objective of that name; `config` must be checked."""
    return KINDS[config.kind](config.z_loss, document_mask)
