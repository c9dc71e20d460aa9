"""The state that our own optimizers keep of a parameter: how many updates it has had, and its moments."""

from __future__ import annotations

import torch
from torch import Tensor


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a parameter's state, made with moments of zero where there is none yet."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state |= {kind: torch.zeros_like(parameter, memory_format=torch.preserve_format) for kind in kinds}
    return state
