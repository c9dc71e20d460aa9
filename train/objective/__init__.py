"""What a run learns from a batch. One trainer, many objectives, each found by name in a fixed registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from data_pipeline.foundation.errors import UserError
from data_pipeline.labels import ANSWERS
from data_pipeline.loader import Batch
from train.objective.pretrain import Pretrain


@dataclass
class ObjectiveConfig:
    """The objective.

    Args:
        kind: `pretrain`: the next token of running text; `sft`: the answers of samples, each seen alone.
        z_loss: weight of the squared log-partition; 1e-4 where logits drift.
    """

    kind: str = "pretrain"
    z_loss: float = 0.0


class Objective(Protocol):
    """An objective sums its loss over targets; the trainer divides by the targets of the whole step."""

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def target_count(self, batch: Batch) -> int: ...


KINDS = {"pretrain": Pretrain, "sft": Pretrain}
"""What is learnt from samples is the next token too; which tokens of them count is said by the data."""
SAMPLES = {"sft": ANSWERS}
"""Which samples an objective learns from; one that isn't here learns from running text."""


def check_objective(config: ObjectiveConfig) -> None:
    """Raise UserError for an objective that there isn't, or settings outside their range."""
    if config.kind not in KINDS:
        raise UserError(f"objective.kind={config.kind}: there are {', '.join(KINDS)}")
    if config.z_loss < 0:
        raise UserError(f"objective.z_loss={config.z_loss} must not be below 0")


def check_objective_data(config: ObjectiveConfig, samples: str | None, document_mask: bool, name: str) -> None:
    """Refuse data that an objective can't learn from.

    Args:
        samples: which the data is made of; None of running text.
        document_mask: whether a sample is seen alone.
        name: of the data, for messages.

    Raises:
        UserError: names the data and what would do.
    """
    wanted = SAMPLES.get(config.kind)
    if wanted is not None and samples != wanted:
        raise UserError(
            f"objective={config.kind} learns from {wanted}, and {name} holds {samples or 'running text'}: prepare them "
            f"with corpus=samples corpus.kind={wanted}"
        )
    if wanted is None and samples is not None:
        fitting = ", ".join(kind for kind, of in SAMPLES.items() if of == samples)
        raise UserError(
            f"{name} holds {samples}, of which objective={config.kind} would learn the prompts too: "
            f"take objective={fitting or 'one for ' + samples}"
        )
    if wanted is not None and not document_mask:
        raise UserError("model.document_mask=false would let a sample look at others: leave it out")


def build_objective(config: ObjectiveConfig, document_mask: bool) -> Objective:
    """Return the objective of that name; `config` must be checked."""
    return KINDS[config.kind](config.z_loss, document_mask)
