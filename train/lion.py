"""Lion: steps of one size in the direction of the momentum's sign; one moment, half of AdamW's state.

Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms". Everything goes by element, so it is the
same on whole parameters and on ZeRO's flat partitions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from train.moments import state_of

CHUNK_ELEMENTS = 1 << 20
"""That are worked on at once: the direction is the only copy that is needed, and stays small."""


class Lion(torch.optim.Optimizer):
    """Lion with decoupled weight decay.

    Args:
        groups: of parameters, each with `weight_decay`.
        betas: of the direction that a step takes, and of the momentum that is kept.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]):
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one update of all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def kinds_of(self, parameter: Tensor) -> tuple[str, ...]:
        """Return the names of the moments that a parameter has."""
        return ("exp_avg",)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = state_of(self, parameter, self.kinds_of(parameter))
        state["step"] += 1
        direction_beta, average_beta = group["betas"]
        flat = (each.view(-1).split(CHUNK_ELEMENTS) for each in (parameter, gradient, state["exp_avg"]))
        for weight, slope, average in zip(*flat):
            direction = average.lerp(slope, 1 - direction_beta).sign_()
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
            average.lerp_(slope, 1 - average_beta)
