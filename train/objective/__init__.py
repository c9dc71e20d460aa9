"""What a run learns from a batch. One trainer, many objectives, each found by name in a fixed registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import Tensor, nn

from data_pipeline.foundation.errors import UserError
from data_pipeline.labels import ANSWERS, PREFERENCES, PROBLEMS
from data_pipeline.loader import Batch
from data_pipeline.packing import CONCATENATE, SINGLE
from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.verifier import check_verifier
from train.model.divergence import FORWARD, REVERSE, Mixture
from train.model.transformer import Transformer
from train.objective.distillation import Distillation
from train.objective.group_relative import NORMALISATIONS, Clipping, GroupRelativePolicy
from train.objective.preference import DirectPreference
from train.objective.pretrain import Pretrain


@dataclass
class ObjectiveConfig:
    """The objective. What doesn't belong to its kind is None.

    Args:
        kind: `pretrain`: the next token of running text; `sft`: the answers of samples, each seen alone; `dpo`: the
            better of two answers; `distillation`: what a teacher says of every next token; `grpo`: those of its own
            answers to problems that are right.
        z_loss: of `pretrain` and `sft`: weight of the squared log-partition; 1e-4 where logits drift.
        beta: of `dpo` and `grpo`: how strongly the model is held to the reference; 0 in `grpo` needs none.
        reference: of `dpo` and `grpo`: the run or checkpoint that is the reference; None takes that of `start_from`.
        teacher: of `distillation`: a run or checkpoint.
        divergence: of `distillation`: `forward`, KL(teacher ‖ student), or `reverse`.
        temperature: of `distillation`: divides the logits of both; of `grpo`: at which answers are drawn.
        hard_weight: of `distillation`: share of the text's own cross-entropy in the loss.
        verifier: of `grpo`: which answers are right; see `Verifier`.
        extract: of `grpo`: where the answer is in what is written.
        samples: of `grpo`: answers to each problem.
        tokens: of `grpo`: most of an answer; one that isn't at its end by then is wrong.
        clip: of `grpo`: how far below and above 1 the ratio to the policy that wrote an answer counts.
        clip_high: of `grpo`: the same above alone; None for `clip`.
        normalisation: of `grpo`: over tokens and answers; see `NORMALISATIONS`.
        by_deviation: of `grpo`: advantages are divided by the standard deviation of their group's rewards.
        skip_alike: of `grpo`: answers to a problem that all have the same reward are left out.
        updates: of `grpo`: made of the answers of a step.
        at_once: of `grpo`: most answers that a rank writes together.
    """

    kind: str = "pretrain"
    z_loss: float = 0.0
    beta: float | None = None
    reference: str | None = None
    teacher: str | None = None
    divergence: str | None = None
    temperature: float | None = None
    hard_weight: float | None = None
    verifier: str | None = None
    extract: ExtractConfig | None = None
    samples: int | None = None
    tokens: int | None = None
    clip: float | None = None
    clip_high: float | None = None
    normalisation: str | None = None
    by_deviation: bool | None = None
    skip_alike: bool | None = None
    updates: int | None = None
    at_once: int | None = None


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
    "grpo": (PROBLEMS,),
}
"""What each objective learns from: a kind of samples, or None for running text."""
NEEDED: dict[str, tuple[str, ...]] = {
    "dpo": ("beta",),
    "distillation": ("divergence", "temperature", "hard_weight"),
    "grpo": (
        *("beta", "verifier", "extract", "samples", "tokens", "temperature", "clip"),
        *("normalisation", "by_deviation", "skip_alike", "updates", "at_once"),
    ),
}
"""Settings that an objective must have."""
FROZEN = {"dpo": "reference", "distillation": "teacher", "grpo": "reference"}
"""The setting that names the frozen model of an objective."""
MAY = {kind: (setting,) for kind, setting in FROZEN.items()} | {"grpo": ("reference", "clip_high")}
"""Settings that an objective may have."""


def frozen_role(config: ObjectiveConfig) -> str | None:
    """Return which setting names the model that the objective is held to, if it is held to one."""
    return None if config.kind == "grpo" and not config.beta else FROZEN.get(config.kind)


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
        if value is not None and key not in (*NEEDED.get(kind, ()), *MAY.get(kind, ())):
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
        if value is not None and value <= 0 and (kind, key) != ("grpo", "beta"):
            raise UserError(f"objective.{key}={value} must be above 0")
    if config.divergence not in (None, FORWARD, REVERSE):
        raise UserError(f"objective.divergence={config.divergence}: there are {FORWARD} and {REVERSE}")
    if config.hard_weight is not None and not 0.0 <= config.hard_weight < 1.0:
        raise UserError(f"objective.hard_weight={config.hard_weight} must lie in [0, 1): at 1 nothing is taught")
    if kind == "grpo":
        _check_group_relative(config, start_from)


def _check_group_relative(config: ObjectiveConfig, start_from: str | None) -> None:
    assert config.verifier is not None and config.extract is not None
    if start_from is None:
        raise UserError("objective=grpo needs start_from=RUN: a model that solves none of its problems learns nothing")
    check_verifier(config.verifier, config.extract, "objective.verifier")
    for key, least in {"samples": 2, "tokens": 1, "updates": 1, "at_once": 1, "beta": 0}.items():
        if getattr(config, key) < least:
            raise UserError(f"objective.{key}={getattr(config, key)} must be at least {least}")
    for key in ("clip", "clip_high"):
        value = getattr(config, key)
        if value is not None and not 0 < value < 1:
            raise UserError(f"objective.{key}={value} must lie between 0 and 1")
    if config.normalisation not in NORMALISATIONS:
        raise UserError(f"objective.normalisation={config.normalisation}: there are {', '.join(NORMALISATIONS)}")
    if config.reference is not None and not config.beta:
        raise UserError(f"objective.reference={config.reference} has no meaning with objective.beta=0: leave it out")


def check_objective_data(
    config: ObjectiveConfig, samples: str | None, document_mask: bool, name: str, packing: str = CONCATENATE
) -> None:
    """Refuse data that an objective can't learn from.

    Args:
        samples: which the data is made of; None of running text.
        document_mask: whether a sample is seen alone.
        name: of the data, for messages.
        packing: of its documents.

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
    if config.kind == "grpo" and packing != SINGLE:
        raise UserError(
            f"objective=grpo needs data.packing={SINGLE}, a problem a sequence, so that batch.sequences counts problems"
        )


def build_objective(
    config: ObjectiveConfig,
    document_mask: bool,
    frozen: Transformer | None = None,
    measure: Callable[[Batch], dict[str, Tensor]] | None = None,
) -> Objective:
    """Return the objective of that name; `config` must be checked.

    Args:
        frozen: the model that the setting in `FROZEN` means.
        measure: of `grpo`, what held-out problems come to.
    """
    if config.kind == "grpo":
        assert config.clip and config.beta is not None and config.normalisation and config.tokens and config.temperature
        clipping = Clipping(config.clip, config.clip_high or config.clip)
        return GroupRelativePolicy(
            clipping, config.beta, config.normalisation, config.tokens, config.temperature, frozen, measure
        )
    if config.kind == "dpo":
        assert config.beta is not None and frozen is not None
        return DirectPreference(config.beta, frozen)
    if config.kind == "distillation":
        assert config.divergence and config.temperature and config.hard_weight is not None and frozen is not None
        mixture = Mixture(config.divergence, config.temperature, config.hard_weight)
        return Distillation(mixture, frozen, document_mask)
    return Pretrain(config.z_loss, document_mask)
