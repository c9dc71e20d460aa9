"""What became of a run, in one small file, and where its wall time went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from data_pipeline.foundation.files import write_json
from train.telemetry.recorder import EVENTS, METRICS, read_lines

Rows = list[dict[str, Any]]


def summarize(folder: Path, status: str, lineage: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` from what a run recorded.

    Args:
        folder: the run folder.
        status: how it ended: finished, stopped, failed …
        lineage: where the weights came from.
        model: what the model is: name, parameters …

    Returns:
        what was written; a figure that was never measured is None.
    """
    metrics, events = read_lines(folder / METRICS), read_lines(folder / EVENTS)
    summary = {"status": status, **figures(metrics, events), "model": model, "lineage": lineage, "time": time.time()}
    write_json(folder / "summary.json", summary)
    return summary


def figures(metrics: Rows, events: Rows) -> dict[str, Any]:
    """Return the figures of a run that its rows alone tell. Losses are in nats per target."""
    last = metrics[-1] if metrics else {}
    losses, validations = numbers(metrics, "loss"), numbers(metrics, "validation_loss")
    validation = _last(validations)
    seconds = wall_seconds(metrics, events)
    return {
        "steps": last.get("step", 0),
        "tokens": last.get("tokens", 0),
        "loss": _last(losses),
        "best_loss": min(losses, default=None),
        "validation_loss": validation,
        "best_validation_loss": min(validations, default=None),
        "perplexity": _last(numbers(metrics, "validation_perplexity")),
        "bits_per_byte": _last(numbers(metrics, "validation_bits_per_byte")),
        "tokens_per_second": _of(median, numbers(metrics, "tokens_per_second")),
        "mfu": _of(median, numbers(metrics, "mfu")),
        "goodput": goodput(seconds),
        "seconds": seconds,
        "starts": sum(event.get("kind") == "started" for event in events),
        "resumes": sum(event.get("kind") == "resumed" for event in events),
    }


def wall_seconds(metrics: Rows, events: Rows) -> dict[str, float]:
    """Split the wall time since the first start, restarts included.

    Returns:
        `wall`, and its parts: `computing` and `data_wait` (together the steps whose result was kept),
        `checkpoint_stall`, `interrupted` (from the last kept step before a resume until the resume: work done twice,
        and the time nobody trained) and `other` (start-up, validation, samples).
    """
    times = [row["time"] for row in [*metrics, *events] if "time" in row]
    starts = [event["time"] for event in events if event.get("kind") == "started" and "time" in event]
    if not times:
        return dict.fromkeys(("wall", "computing", "data_wait", "checkpoint_stall", "interrupted", "other"), 0.0)
    begin = min(starts, default=min(times))
    wall = max(times) - begin
    kept, data_wait = _over_steps(metrics, "step_seconds"), _over_steps(metrics, "data_wait_seconds")
    stall = sum(numbers(metrics, "checkpoint_stall_seconds"))
    interrupted = 0.0
    for event in events:
        if event.get("kind") == "resumed" and "time" in event:
            before = [row["time"] for row in metrics if row.get("time", math.inf) < event["time"]]
            interrupted += event["time"] - max(before, default=begin)
    return {
        "wall": wall,
        "computing": kept - data_wait,
        "data_wait": data_wait,
        "checkpoint_stall": stall,
        "interrupted": interrupted,
        "other": max(0.0, wall - kept - stall - interrupted),
    }


def goodput(seconds: dict[str, float]) -> float | None:
    """Return the share of the wall time that was spent in steps whose result was kept."""
    return (seconds["computing"] + seconds["data_wait"]) / seconds["wall"] if seconds["wall"] > 0 else None


def numbers(rows: Rows, key: str) -> list[float]:
    """Return the values of a key where it was measured and finite."""
    return [row[key] for row in rows if isinstance(row.get(key), (int, float))]


def _over_steps(metrics: Rows, key: str) -> float:
    """Sum a per-step time over all steps; a row stands for the steps since the row before it."""
    total, step = 0.0, 0
    for row in metrics:
        if isinstance(row.get(key), (int, float)):
            total += row[key] * max(1, row["step"] - step)
        step = row.get("step", step)
    return total


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None


def _of(statistic: Callable[[Iterable[float]], float], values: list[float]) -> float | None:
    return statistic(values) if values else None
