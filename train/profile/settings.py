"""What `headrace profile` is told, beside everything that a run is: the root of `conf/profile.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from train.settings import TrainConfig


@dataclass
class ProfilingConfig:
    """Which steps are looked at, and how.

    Args:
        output: folder for `trace.json` and `profile.json`; made if it isn't there.
        warm_up: steps before.
        steps: that are timed by part.
        traced: steps after those, of which every operator is recorded; each takes some 5 MB of trace for a small model.
        operators: shown, those that take most.
    """

    output: str = "profile"
    warm_up: int = 3
    steps: int = 5
    traced: int = 2
    operators: int = 12


@dataclass
class ProfileConfig(TrainConfig):
    """A run that is looked at for a few steps."""

    profile: ProfilingConfig = field(default_factory=ProfilingConfig)


def check_profile(config: ProfilingConfig) -> None:
    """Raise UserError for settings outside their range."""
    for key, least in {"warm_up": 0, "steps": 1, "traced": 1, "operators": 1}.items():
        if getattr(config, key) < least:
            raise UserError(f"profile.{key}={getattr(config, key)} must be at least {least}")
