"""What a run learns from a batch. One trainer, many objectives, each found by name in a fixed registry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

from torch import Tensor, nn

from data_pipeline.foundation.errors import UserError
from data_pipeline.labels import ANSWERS, PREFERENCES
from data_pipeline.loader import Batch
from train.model.divergence import FORWARD, REVERSE, Mixture
from train.model.transformer import Transformer
from train.objective.distillation import Distillation
from train.objective.preference import DirectPreference
from train.objective.pretrain import Pretrain


@dataclass
class ObjectiveConfig:
    """The objective. What doesn't belong to its kind is None.

    Args:
        kind: `pretrain`: the next token of running text; `sft`: the answers of samples, each seen alone; `dpo`: the
            better of two answers; `distillation`: what a teacher says of every next token.
        z_loss: of `pretrain` and `sft`: weight of the squared log-partition; 1e-4 where logits drift.
        beta: of `dpo`: how strongly the model is held to the reference.
        reference: of `dpo`: the run or checkpoint that is the reference; None takes that of `start_from`.
        teacher: of `distillation`: a run or checkpoint.
        divergence: of `distillation`: `forward`, KL(teacher ‖ student), or `reverse`.
        temperature: of `distillation`: divides the logits of both.
        hard_weight: of `distillation`: share of the text's own cross-entropy in the loss.
    """

    kind: str = "pretrain"
    z_loss: float = 0.0
    beta: float | None = None
    reference: str | None = None
    teacher: str | None = None
    divergence: str | None = None
    temperature: float | None = None
    hard_weight: float | None = None


class Objective(Protocol):
    """An objective sums its loss over targets; the trainer divides by the targets of the whole step."""

    @property
    def is_likelihood(self) -> bool:
        """Whether the loss on held-out data is in nats per token, so that there is a perplexity."""
        ...

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what is told of held-out data, each summed over targets: `loss`, and what else there is."""
        ...

    def target_count(self, batch: Batch) -> int: ...


DATA: dict[str, tuple[str | None, ...]] = {
    "pretrain": (None,),
    "sft": (ANSWERS,),
    "dpo": (PREFERENCES,),
    "distillation": (None, ANSWERS),
}
"""What each objective learns from: a kind of samples, or None for running text."""
NEEDED: dict[str, tuple[str, ...]] = {"dpo": ("beta",), "distillation": ("divergence", "temperature", "hard_weight")}
"""Settings that an objective alone has, and must have."""
FROZEN = {"dpo": "reference", "distillation": "teacher"}
"""The setting that names the frozen model of an objective."""


def check_objective(config: ObjectiveConfig, start_from: str | None = None) -> None:
    """Raise UserError for an objective that there isn't, settings of another one, or outside their range."""
    kind = config.kind
    if kind not in DATA:
        raise UserError(f"objective.kind={kind}: there are {', '.join(DATA)}")
    if config.z_loss < 0:
        raise UserError(f"objective.z_loss={config.z_loss} must not be below 0")
    if config.z_loss and kind in FROZEN:
        raise UserError(f"objective.z_loss={config.z_loss} has no meaning for objective={kind}: leave it out")
    for key, value in asdict(config).items():
        if key in ("kind", "z_loss"):
            continue
        if value is None and key in NEEDED.get(kind, ()):
            raise UserError(f"objective={kind} needs objective.{key}")
        if value is not None and key not in (*NEEDED.get(kind, ()), FROZEN.get(kind)):
            raise UserError(f"objective.{key}={value} has no meaning for objective={kind}: leave it out")
    if kind == "dpo" and config.reference is None and start_from is None:
        raise UserError(
            "objective=dpo needs start_from=RUN, whose answers it begins with and is held to; objective.reference=RUN "
            "holds it to another model"
        )
    if kind == "distillation" and config.teacher is None:
        raise UserError("objective=distillation needs objective.teacher=RUN, or a checkpoint")
    for key in ("beta", "temperature"):
        value = getattr(config, key)
        if value is not None and value <= 0:
            raise UserError(f"objective.{key}={value} must be above 0")
    if config.divergence not in (None, FORWARD, REVERSE):
        raise UserError(f"objective.divergence={config.divergence}: there are {FORWARD} and {REVERSE}")
    if config.hard_weight is not None and not 0.0 <= config.hard_weight < 1.0:
        raise UserError(f"objective.hard_weight={config.hard_weight} must lie in [0, 1): at 1 nothing is taught")


def check_objective_data(config: ObjectiveConfig, samples: str | None, document_mask: bool, name: str) -> None:
    """Refuse data that an objective can't learn from.

    Args:
        samples: which the data is made of; None of running text.
        document_mask: whether a sample is seen alone.
        name: of the data, for messages.

    Raises:
        UserError: names the data and what would do.
    """
    wanted = DATA[config.kind]
    if samples not in wanted and None not in wanted:
        raise UserError(
            f"objective={config.kind} learns from {wanted[0]}, and {name} holds {samples or 'running text'}: prepare "
            f"them with corpus=samples corpus.kind={wanted[0]}"
        )
    if samples not in wanted:
        fitting = ", ".join(kind for kind, of in DATA.items() if samples in of)
        raise UserError(
            f"{name} holds {samples}, which objective={config.kind} doesn't tell from running text: "
            f"take objective={fitting}"
        )
    if samples is not None and not document_mask:
        raise UserError("model.document_mask=false would let a sample look at others: leave it out")


def build_objective(config: ObjectiveConfig, document_mask: bool, frozen: Transformer | None = None) -> Objective:
    """Return the objective of that name; `config` must be checked.

    Args:
        frozen: the model that the setting in `FROZEN` means.
    """
    if config.kind == "dpo":
        assert config.beta is not None and frozen is not None
        return DirectPreference(config.beta, frozen)
    if config.kind == "distillation":
        assert config.divergence and config.temperature and config.hard_weight is not None and frozen is not None
        mixture = Mixture(config.divergence, config.temperature, config.hard_weight)
        return Distillation(mixture, frozen, document_mask)
    return Pretrain(config.z_loss, document_mask)
