"""The page of a study of chains of thought, in English and Chinese: a table, bars, and curves by time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import write_text
from data_pipeline.foundation.pages import page_style, page_templates

FOLDER = Path(__file__).parent
CHANCE = {"chain": 1 / 7, "product": 0.0}


def write_page(root: Path, results: Sequence[dict[str, Any]]) -> Path:
    """Write `report.html` into the study's folder; return its path."""
    ordered = sorted(results, key=lambda each: (each["problem"], each["name"] != "steps", each["name"], each["seed"]))
    curves = [
        {"name": f"{each['problem']}, seed {each['seed']}", "points": _points(each["curve"]), "last": each["curve"][-1]}
        for each in ordered
        if len(each["curve"]) > 1
    ]
    page = (
        page_templates(FOLDER)
        .get_template("page.html")
        .render(style=page_style(FOLDER / "page.css"), results=ordered, curves=curves, chance=CHANCE)
    )
    path = root / "report.html"
    write_text(path, page)
    return path


def _points(curve: Sequence[dict[str, Any]]) -> str:
    """Return a curve of accuracy by time as points of an SVG of 300 × 100."""
    longest = max(each["seconds"] or 0 for each in curve) or 1
    return " ".join(f"{300 * (each['seconds'] or 0) / longest:.1f},{100 - 100 * each['share']:.1f}" for each in curve)
