"""The plan as one page that opens offline, loads nothing and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import write_text
from data_pipeline.foundation.pages import page_style, page_templates
from launch.plan.picture import MEMORY_PARTS, TIME_PARTS, Bar, memory_bar, plan_lines, time_bar
from launch.plan.plan import Plan
from train.memory.room import gigabytes

FOLDER = Path(__file__).parent


def write_page(plan: Plan, output: Path) -> None:
    """Write the page."""
    write_text(output, render(plan))


def render(plan: Plan) -> str:
    """Return the page as HTML; names from the configuration are text in it."""
    shown = plan.recommendation.shown
    memory = max([plan.config.device.memory, *(option.needed for option in shown)])
    seconds = max((option.time.total for option in shown), default=1.0)
    rows = [
        {
            "option": option,
            "chosen": plan.recommendation.chosen is not None and option.kind == plan.recommendation.chosen.kind,
            "memory": _shares(memory_bar(option), memory),
            "time": _shares(time_bar(option), seconds),
        }
        for option in shown
    ]
    return (
        page_templates(FOLDER)
        .get_template("page.html")
        .render(
            plan=plan,
            rows=rows,
            memory_parts=MEMORY_PARTS,
            time_parts=TIME_PARTS,
            room=plan.config.device.memory / memory,
            lines=[line.split(None, 1) for line in plan_lines(plan) if line],
            gigabytes=gigabytes,
            style=page_style(FOLDER / "page.css"),
        )
    )


def _shares(bar: Bar, whole: float) -> list[dict[str, Any]]:
    return [{"name": name, "share": value / whole, "value": value} for name, value in bar.parts if value > 0]
