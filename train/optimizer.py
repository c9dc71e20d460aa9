"""The optimizers, and which parameters decay or are matrices of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from data_pipeline.foundation.errors import UserError
from train.muon import Muon


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), or Muon for the matrices of hidden layers and AdamW for the rest.

    Args:
        kind: `adamw` or `muon`.
        learning_rate: at the top of the schedule.
        betas: decay rates of the two moments.
        epsilon: added to the second moment's root.
        weight_decay: per step and unit of rate, on matrices.
        momentum: of Muon.
        decay_all: also decay norms, biases and embeddings.
        clip_norm: longest gradient over all parameters; 0 doesn't clip.
    """

    kind: str = "adamw"
    learning_rate: float = 3e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    decay_all: bool = False
    clip_norm: float = 1.0


KINDS = ("adamw", "muon")


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.kind not in KINDS:
        raise UserError(f"optimizer.kind={config.kind}: there are {', '.join(KINDS)}")
    if not 0 <= config.momentum < 1:
        raise UserError(f"optimizer.momentum={config.momentum} must be in [0, 1)")
    if config.learning_rate <= 0 or config.epsilon <= 0 or config.weight_decay < 0 or config.clip_norm < 0:
        raise UserError("optimizer.learning_rate and epsilon must be above 0, weight_decay and clip_norm not below 0")
    if len(config.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in config.betas):
        raise UserError(f"optimizer.betas={config.betas} must be two numbers in [0, 1)")


def is_decayed(name: str, dimensions: int, decay_all: bool) -> bool:
    """Return whether a parameter decays: matrices but the embedding do, unless everything shall."""
    return decay_all or (dimensions >= 2 and not name.startswith("embedding."))


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over a model's parameters, in groups with and without weight decay.

    Dimensions are taken from `ds_shape` where ZeRO-3 has partitioned a parameter, whose own shape then says nothing.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    hidden: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
        is_hidden = dimensions >= 2 and name.startswith("blocks.")
        decays = is_decayed(name, dimensions, config.decay_all)
        (hidden if config.kind == "muon" and is_hidden else decayed if decays else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": config.weight_decay, "orthogonal": True},
        {"params": decayed, "weight_decay": config.weight_decay, "orthogonal": False},
        {"params": free, "weight_decay": 0.0, "orthogonal": False},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.betas[0], config.betas[1])
    if config.kind == "muon":
        return Muon(groups, config.learning_rate, config.momentum, betas, config.epsilon)
    for group in groups:
        del group["orthogonal"]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
