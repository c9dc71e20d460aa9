"""What a half-learnt chain of thought gains by reward alone, beside what as much more of its training would give it.

From the checkpoint that solves about half of the problems, GRPO goes on with problems of which only the answer is
known, not the steps. The run that the checkpoint is of went on with steps: how much it solves after as many seconds
more is measured anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.study.accuracy import Accuracy

REWARD = "reward"
EXPERIMENT = "cot_theory_reward"
HALF, LEAST, MOST = 0.57, 0.3, 0.9
"""Share of problems that a half-trained model solves: about, at least and at most."""
Point = dict[str, Any]


def half_learnt(curve: Sequence[Point]) -> Point | None:
    """Return the point of a curve of checkpoints that is nearest to half, if there is one."""
    found = [point for point in curve if LEAST <= point["share"] <= MOST]
    return min(found, key=lambda point: abs(point["share"] - HALF), default=None)


def reward_settings(checkpoint: Path, dataset: Path) -> list[str]:
    """Return the settings of a training by reward that begins with a checkpoint."""
    return [f"experiment={EXPERIMENT}", f"start_from='{checkpoint}'", f"data.path='{dataset}'"]


def supervised_after(curve: Sequence[Point], seconds: float) -> Point:
    """Return the first point of a curve at or after so many seconds, or its last one."""
    return next((point for point in curve if (point["seconds"] or 0.0) >= seconds), curve[-1])


def reward_result(result: Point, found: Accuracy, steps: int, seconds: float, tokens: int) -> Point:
    """Return what is told of a training by reward.

    Args:
        result: of the training that it began with a checkpoint of.
        found: what it solves at its end.
        seconds: that it took.
        tokens: of its own answers that it learnt from.
    """
    half = half_learnt(result["curve"])
    assert half is not None
    point = {"step": steps, "seconds": seconds, **vars(found)}
    return {
        **{key: result[key] for key in ("problem", "seed")},
        **{"name": REWARD, "steps": steps, "tokens_learnt": tokens, "curve": [point]},
        **point,
        "half": half,
        "supervised": supervised_after(result["curve"], (half["seconds"] or 0.0) + seconds),
    }
