"""The recommendation as an experiment, an options file that `train` reads like any of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import write_text
from launch.plan.plan import Plan

NAME = "planned"


def apply_plan(plan: Plan, folder: Path) -> Path:
    """Write `FOLDER/experiment/planned.yaml`; `headrace train --config-dir FOLDER experiment=planned` uses it.

    Returns:
        the file.

    Raises:
        UserError: nothing fits, so there is nothing to write.
    """
    chosen, run = plan.recommendation.chosen, plan.run
    if chosen is None or run is None:
        raise UserError(f"nothing fits, so there is nothing to apply: {plan.recommendation.limits}")
    layout = chosen.layout
    settings: dict[str, Any] = {
        "defaults": [
            {"override /precision": layout.precision},
            {"override /optimizer": plan.config.optimizer.kind},
        ],
        "steps": run.steps,
        "activation_checkpointing": layout.activation_checkpointing,
        "recomputed": layout.recomputed,
        "model": asdict(plan.config.model),
        "data": {"sequence_length": layout.length},
        "batch": {"sequences": plan.recommendation.sequences, "micro": layout.micro},
        "zero": asdict(layout.zero),
        "parallel": asdict(plan.config.parallel),
        "checkpoint": {"every": run.checkpoint_every},
    }
    path = folder / "experiment" / f"{NAME}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = (
        "# @package _global_\n"
        f"# As planned for {plan.config.cluster.devices} × {plan.config.device.name}: {chosen.name}, "
        f"{chosen.tokens_per_second:,.0f} tokens/s on each.\n"
    )
    write_text(path, head + yaml.safe_dump(settings, sort_keys=False))
    return path
