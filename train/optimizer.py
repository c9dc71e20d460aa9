"""The optimizers, and what each does with which parameters.

With a base width, rates and initial weights are those of μP (Yang et al. 2022, "Tensor Programs V", table 8): what was
tuned on a narrow model serves for a wide one. With m = width / base width, under AdamW and Lion, updates of hidden
matrices are 1 / m as large; under Muon, whose updates have a spectral norm that grows with √width at a given rate,
1 / √m (Yang, Simon and Bernstein 2023, "A spectral condition for feature learning"). Embedding and head keep rate and
initial deviation of the base. μP's 1 / m at the logits is in the last norm's gain instead: that begins at 1 / m and
learns 1 / m as fast, which under such optimizers is the same function, so the model stays one that others load. Decay
times rate stays. Width grows by more heads, not by wider ones, and the feed-forward layer with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from data_pipeline.foundation.errors import UserError
from train.lion import Lion
from train.model.initialisation import LAST_NORM
from train.model.transformer import Transformer
from train.muon import Muon


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), Lion, or Muon for the matrices of hidden layers and AdamW for the rest.

    Args:
        kind: `adamw`, `lion` or `muon`.
        learning_rate: at the top of the schedule.
        base_width: of the model that the rate was found on; rates and initial weights then follow μP. None: no model.
        betas: decay rates of the two moments.
        epsilon: added to the second moment's root.
        weight_decay: per step and unit of rate, on matrices.
        momentum: of Muon.
        decay_all: also decay norms, biases and embeddings.
        clip_norm: longest gradient over all parameters; 0 doesn't clip.
    """

    kind: str = "adamw"
    learning_rate: float = 3e-3
    base_width: int | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    decay_all: bool = False
    clip_norm: float = 1.0


KINDS = ("adamw", "lion", "muon")


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.kind not in KINDS:
        raise UserError(f"optimizer.kind={config.kind}: there are {', '.join(KINDS)}")
    if config.base_width is not None and config.base_width < 1:
        raise UserError(f"optimizer.base_width={config.base_width} must be at least 1")
    if not 0 <= config.momentum < 1:
        raise UserError(f"optimizer.momentum={config.momentum} must be in [0, 1)")
    if config.learning_rate <= 0 or config.epsilon <= 0 or config.weight_decay < 0 or config.clip_norm < 0:
        raise UserError("optimizer.learning_rate and epsilon must be above 0, weight_decay and clip_norm not below 0")
    if len(config.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in config.betas):
        raise UserError(f"optimizer.betas={config.betas} must be two numbers in [0, 1)")


@dataclass(frozen=True)
class Role:
    """What an optimizer does with a parameter; those of one role are one group.

    Args:
        orthogonal: its updates are made orthogonal, by Muon.
        weight_decay: per step and unit of rate.
        rate_scale: what the learning rate is multiplied by.
    """

    orthogonal: bool
    weight_decay: float
    rate_scale: float = 1.0


def role_of(name: str, dimensions: int, config: OptimizerConfig, width: int) -> Role:
    """Return the role of a parameter: matrices but the embedding decay, unless everything shall.

    Args:
        width: of the model.
    """
    decays = config.decay_all or (dimensions >= 2 and not name.startswith("embedding."))
    is_hidden = dimensions == 2 and name.startswith("blocks.")
    orthogonal = config.kind == "muon" and is_hidden
    wider = width / (config.base_width or width)
    scale = (wider**-0.5 if orthogonal else 1 / wider) if is_hidden or name == LAST_NORM else 1.0
    return Role(orthogonal, config.weight_decay / scale if decays else 0.0, scale)


def moments_of(role: Role, config: OptimizerConfig) -> int:
    """Return how many moments the optimizer keeps of a parameter."""
    return 1 if role.orthogonal or config.kind == "lion" else 2


Shapes = Iterable[tuple[str, Sequence[int]]]


def shapes_of(model: nn.Module) -> Shapes:
    """Return the whole shapes of parameters by name, also of those that ZeRO-3 has partitioned."""
    return [(name, getattr(each, "ds_shape", each.shape)) for name, each in model.named_parameters()]


def by_role(shapes: Shapes, config: OptimizerConfig, width: int) -> dict[Role, list[tuple[str, Sequence[int]]]]:
    """Sort parameters into groups: hidden matrices first, and what decays first."""
    groups: dict[Role, list[tuple[str, Sequence[int]]]] = {}
    for name, shape in shapes:
        groups.setdefault(role_of(name, len(shape), config, width), []).append((name, shape))
    return dict(
        sorted(groups.items(), key=lambda each: (not each[0].orthogonal, -each[0].weight_decay, each[0].rate_scale))
    )


def build_optimizer(config: OptimizerConfig, model: Transformer) -> torch.optim.Optimizer:
    """Return the optimizer over a model's parameters, in groups of one role each."""
    named = dict(model.named_parameters())
    groups = [
        {"params": [named[name] for name, _ in members], **asdict(role)}
        for role, members in by_role(shapes_of(model), config, model.config.width).items()
    ]
    betas = (config.betas[0], config.betas[1])
    if config.kind == "muon":
        return Muon(groups, config.learning_rate, config.momentum, betas, config.epsilon)
    if config.kind == "lion":
        return Lion(groups, config.learning_rate, betas)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
