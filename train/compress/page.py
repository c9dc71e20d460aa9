"""What was compressed and what it cost, as one page that opens offline, loads nothing and runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipeline.foundation.pages import page_style, page_templates
from train.compress.record import described, rows_of

FOLDER = Path(__file__).parent
PAGE = "compression.html"


def render(output: str, record: dict[str, Any]) -> str:
    """Return the page as HTML; names are text in it."""
    return (
        page_templates(FOLDER)
        .get_template("page.html")
        .render(
            title=output,
            method=described(record["method"]),
            rows=rows_of(record),
            notes=record["notes"],
            lineage=json.dumps(
                {key: record[key] for key in ("method", "calibration", "parent")}, indent=1, ensure_ascii=False
            ),
            style=page_style(FOLDER / "page.css"),
        )
    )
