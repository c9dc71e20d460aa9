"""An exponential moving average of the weights, beside the optimizer's moments and partitioned like them.

It is one more state of each master tensor, so checkpoints hold it by parameter, and it moves between ZeRO stages and
world sizes with the rest. It follows only updates that are made. Sources: Polyak and Juditsky 1992; its decay grows as
(1 + n) / (10 + n) with the number n of updates until it is the one asked for, so that the start is soon forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from data_pipeline.foundation.errors import UserError
from train.checkpoint.pieces import AVERAGE, masters_with_state

if TYPE_CHECKING:
    from train.engine import Engine


@dataclass
class EmaConfig:
    """The average of the weights.

    Args:
        decay: of what it was before, at each update; 0 keeps none.
    """

    decay: float = 0.0


def check_ema(config: EmaConfig) -> None:
    """Raise UserError for a decay outside its range."""
    if not 0.0 <= config.decay < 1.0:
        raise UserError(f"ema.decay={config.decay} must be in [0, 1): 0.999 averages over about a thousand updates")


@torch.no_grad()
def follow(engine: Engine, decay: float) -> None:
    """Let the average take in the weights of the update that was just made."""
    for master, state in masters_with_state(engine):
        if AVERAGE not in state:
            state[AVERAGE] = master.detach().clone()
            continue
        updates = state["step"]
        # A tensor, for a number would have to be fetched from the device.
        state[AVERAGE].lerp_(master.detach(), 1 - ((1 + updates) / (10 + updates)).clamp(max=decay))
