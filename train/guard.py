"""Bad numbers: judged before the update, by every rank alike; skipped, then rolled back behind, then given up on.

The method of PaLM (Chowdhery et al. 2022, section 5.1: restart from before a spike, without the batches around it) and
of OLMo 2 (2024: skip what stands out among the last 128 steps), made exact: what happens is a function of the numbers
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from data_pipeline.foundation.errors import Failure, UserError

SIGMAS_PER_DEVIATION = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""
LEAST_SPREAD = 0.01
"""Of a loss, as a share of its median: a loss that hardly moves any more isn't judged by its last digits."""


@dataclass
class GuardConfig:
    """What a bad step is, and what is done about it. A loss or gradient that isn't finite is always bad.

    Args:
        loss_spike: a loss this many robust standard deviations above the running median is bad; 0 doesn't judge it.
        gradient_spike: a gradient norm this many times the running median is bad; 0 doesn't judge it.
        window: good steps that medians run over.
        warmup: good steps before spikes are judged, at the beginning and after each change of the data's stage.
        skips: bad steps in a row that are skipped; at the last of them the run rolls back.
        rollbacks: of a run, before it gives up.
        replica_check_every: steps between two comparisons of the ranks' copies of weights, which are compared before
            each checkpoint too; 0 never compares.
    """

    loss_spike: float = 10.0
    gradient_spike: float = 10.0
    window: int = 128
    warmup: int = 64
    skips: int = 5
    rollbacks: int = 3
    replica_check_every: int = 1000


def check_guard(config: GuardConfig) -> None:
    """Raise UserError for settings outside their range."""
    least = {"loss_spike": 0, "gradient_spike": 0, "warmup": 2, "skips": 1, "rollbacks": 0, "replica_check_every": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise UserError(f"guard.{name}={getattr(config, name)} must be at least {value}")
    if 0 < config.gradient_spike <= 1:
        raise UserError(f"guard.gradient_spike={config.gradient_spike} is a multiple of the median: above 1, or 0")
    if config.window < config.warmup:
        raise UserError(f"guard.window={config.window} must be at least guard.warmup={config.warmup}")


@dataclass
class _Memory:
    """What the guard remembers from step to step, in plain data.

    Args:
        losses, norms: of the last good steps.
        stage: of the data, that they were measured in.
        bad: steps in a row up to the last one.
        before_bad: the last good step before them.
        rollbacks: done so far.
        returned_to: the step whose weights came back last, if no step has been good since.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    stage: int = 0
    bad: int = 0
    before_bad: int = 0
    rollbacks: int = 0
    returned_to: int | None = None


class Guard:
    """Judges each step by its loss and gradient norm, which are the same on every rank, and remembers.

    A bad step is skipped: weights and moments stay, step, schedule and data go on. After `skips` bad steps in a row,
    though each had other data, it is the weights that are bad. Then those of the last good checkpoint come back while
    step, schedule and data go on: the run is the one that would have skipped all steps since that checkpoint. So the
    window of data that led into the trouble is jumped over, no sequence is read twice, the data of a step stays a
    function of the step, and the cursor one integer.

    Args:
        remembered: what `state` returned at a checkpoint; empty at the beginning of a run.
    """

    def __init__(self, config: GuardConfig, remembered: Mapping[str, Any]):
        self._config, self._memory = config, _Memory(**remembered)

    def state(self) -> dict[str, Any]:
        """Return all that it remembers, for a checkpoint."""
        return asdict(self._memory)

    def enter(self, stage: int) -> None:
        """Say which stage of the data the next step is of: another mixture may have another loss."""
        if stage != self._memory.stage:
            self._memory.stage, self._memory.losses, self._memory.norms = stage, [], []

    def judge(self, loss: float, norm: float) -> str | None:
        """Return what is wrong with a step, for a person; None if nothing is. Remembers nothing."""
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
        memory, config = self._memory, self._config
        if len(memory.losses) < config.warmup:
            return None
        usual = median(memory.losses)
        deviation = median(abs(value - usual) for value in memory.losses)
        spread = max(SIGMAS_PER_DEVIATION * deviation, LEAST_SPREAD * abs(usual))
        if config.loss_spike and loss > usual + config.loss_spike * spread:
            return f"the loss {loss:.4g} is {(loss - usual) / spread:.0f} deviations above its median {usual:.4g}"
        usual = median(memory.norms)
        if config.gradient_spike and norm > config.gradient_spike * usual:
            return f"the gradient norm {norm:.4g} is {norm / max(usual, 1e-30):.0f} times its median {usual:.4g}"
        return None

    def learnt(self, loss: float, norm: float) -> None:
        """Remember a good step. One without a gradient, as where all answers are alike, says nothing of the others."""
        memory, window = self._memory, self._config.window
        if norm > 0:
            memory.losses, memory.norms = [*memory.losses, loss][-window:], [*memory.norms, norm][-window:]
        memory.bad, memory.returned_to = 0, None

    def skipped(self, step: int) -> bool:
        """Remember a bad step; return whether it is time to roll back."""
        memory = self._memory
        if memory.bad == 0:
            memory.before_bad = step - 1
        memory.bad += 1
        return memory.bad >= self._config.skips

    def may_return_to(self, step: int) -> bool:
        """Return whether a checkpoint of a step is from before the trouble, and not the one that led back into it."""
        memory = self._memory
        return step <= memory.before_bad and (memory.returned_to is None or step < memory.returned_to)

    def require_rollback(self, step: int, reason: str) -> None:
        """Check that the run may roll back once more.

        Raises:
            Failure: it has been often enough.
        """
        if self._memory.rollbacks >= self._config.rollbacks:
            raise given_up(
                step,
                reason,
                f"the run has rolled back {self._memory.rollbacks} times (guard.rollbacks), and that's all",
            )

    def rolled_back(self, step: int) -> int:
        """Remember that the weights are those of a checkpoint; return how many times this has happened."""
        memory = self._memory
        memory.rollbacks, memory.bad, memory.returned_to = memory.rollbacks + 1, 0, step
        return memory.rollbacks


def given_up(step: int, reason: str, why: str) -> Failure:
    return Failure(
        f"bad numbers up to step {step}: {reason}; {why}. Lower optimizer.learning_rate or lengthen "
        "schedule.warmup_steps, in a run of another name; `headrace inspect source=RUN step=N` shows what a step read"
    )
