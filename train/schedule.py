"""Learning rates as a function of the step: resuming needs nothing but the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_pipeline.foundation.errors import UserError

KINDS = ("constant", "linear", "cosine", "wsd")


@dataclass
class ScheduleConfig:
    """Warm-up to 1, then a decay to `floor`, as a factor on the optimizer's rate.

    Args:
        kind: `constant`; `linear` or `cosine` from the end of warm-up to the last step; `wsd` stays at 1 and decays
            linearly over the last steps (Hu et al. 2024, MiniCPM).
        warmup_steps: steps to grow linearly from 0.
        decay_fraction: for `wsd`, the share of all steps that decays.
        floor: the factor at the last step.
    """

    kind: str = "cosine"
    warmup_steps: int = 20
    decay_fraction: float = 0.2
    floor: float = 0.1


def check_schedule(config: ScheduleConfig, steps: int) -> None:
    """Raise UserError for a schedule that makes no sense for a run of `steps`."""
    if config.kind not in KINDS:
        raise UserError(f"schedule.kind={config.kind}: there are {', '.join(KINDS)}")
    if not 0 <= config.warmup_steps <= steps:
        raise UserError(f"schedule.warmup_steps={config.warmup_steps} must lie between 0 and steps={steps}")
    if not 0.0 <= config.floor <= 1.0 or not 0.0 < config.decay_fraction <= 1.0:
        raise UserError("schedule.floor must lie in [0, 1] and schedule.decay_fraction in (0, 1]")


def rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return the factor for step `step` of `steps`, counted from 1."""
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    first = config.warmup_steps
    if config.kind == "wsd":
        first = max(first, steps - max(1, round(config.decay_fraction * steps)))
    if config.kind == "constant" or step <= first:
        return 1.0
    progress = min(1.0, (step - first) / max(1, steps - first))
    if config.kind == "cosine":
        return config.floor + (1.0 - config.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - (1.0 - config.floor) * progress
