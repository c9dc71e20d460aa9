"""The report: one run, or several side by side, as one page that opens offline and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import write_text
from data_pipeline.foundation.pages import page_style, page_templates
from data_pipeline.foundation.verb import Request, Verb
from train.telemetry.curves import every, robust_range, significant, smooth, thin
from train.telemetry.display import amount, duration
from train.telemetry.recorder import EVENTS, METRICS, SAMPLES, read_lines
from train.telemetry.summary import Rows, figures

TEMPLATES = Path(__file__).parent
SAMPLES_SHOWN = 40
EVENTS_SHOWN = 200
FILE_CHARACTERS = 200_000
SMOOTHING = 0.01
"""How far, as a share of all records, the mean line looks to each side."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Args:
        key: the metric.
        form: how its numbers are written: `number`, `amount`, `bytes`, `share`, `seconds`.
        validation: the metric drawn beside it, measured now and then.
        is_smoothed: whether it is noisy enough to need a mean line.
    """

    key: str
    title: str
    form: str
    validation: str | None = None
    is_smoothed: bool = True


CHARTS = (
    Chart("loss", "Loss, nats per target", "number", validation="validation_loss"),
    Chart("validation_accuracy", "Held-out pairs whose better answer gained more", "share", is_smoothed=False),
    Chart("reward", "Reward of an answer", "number", validation="validation_solved"),
    Chart("solved", "Problems with a right answer", "share"),
    Chart("informative", "Problems whose answers differ in reward", "share"),
    Chart("answer_tokens", "Tokens of an answer", "number", validation="validation_answer_tokens"),
    Chart("kl", "KL divergence from the reference, nats per token", "number"),
    Chart("clipped", "Tokens whose ratio was clipped", "share"),
    Chart("balance_loss", "Balance of experts, 1 where all are equally busy", "number"),
    Chart("busiest_expert", "Load of the busiest expert, in even shares", "number"),
    Chart("idle_experts", "Experts that no token of a step chose", "share"),
    Chart("tokens_per_second", "Tokens per second", "amount"),
    Chart("step_seconds", "Time of a step", "seconds"),
    Chart("learning_rate", "Learning rate", "number", is_smoothed=False),
    Chart("grad_norm", "Gradient norm", "number"),
    Chart("mfu", "Model FLOPs utilisation", "share"),
    Chart("memory_bytes", "Memory at its peak", "bytes", is_smoothed=False),
)
TIME_PARTS = (
    ("computing", "training"),
    ("data_wait", "waiting for data"),
    ("checkpoint_stall", "saving checkpoints"),
    ("interrupted", "lost to interruptions"),
    ("other", "start-up, validation, other"),
)


@dataclass
class ReportConfig:
    """Settings of `report`.

    Args:
        source: a run folder, or a list of them.
        output: the page; left out, `report.html` in the run folder, or here if there are several runs.
    """

    source: Any = "???"
    output: str | None = None


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write the page about one or several run folders, whatever they hold so far.

    Returns:
        `output`.
    """
    write_text(output, render(list(runs)))
    return output


def render(runs: list[Path]) -> str:
    """Return the page as HTML. Everything that comes from a run is text in it: nothing of it can run or load."""
    names = distinct_names(runs)
    described = [_describe(folder, name) for folder, name in zip(runs, names)]
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = page_templates(TEMPLATES)
    environment.filters.update(amount=amount, duration=duration, figure=_figure)
    drawn = [run["drawn"] for run in described]
    charts = [chart for chart in CHARTS if any(chart.key in run["curves"] or _beside(chart, run) for run in drawn)]
    return environment.get_template("report.html").render(
        title=" · ".join(names),
        runs=described,
        charts=charts,
        cards=CARDS,
        evaluation=_side_by_side([run["evaluation"] for run in described]),
        time_parts=TIME_PARTS,
        written=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        data=embedded_json({"runs": drawn, "charts": {chart.key: vars(chart) for chart in charts}}),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=page_style(TEMPLATES / "report.css"),
    )


def embedded_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def distinct_names(runs: list[Path]) -> list[str]:
    """Return the names of the run folders, with as much of the path as tells them apart."""
    paths = [run.resolve() for run in runs]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({index})" for index, path in enumerate(paths, 1)]


CARDS = (
    ("loss", "training loss", "number"),
    ("validation_loss", "validation loss", "number"),
    ("perplexity", "perplexity", "number"),
    ("bits_per_byte", "bits per byte", "number"),
    ("tokens", "tokens seen", "amount"),
    ("tokens_per_second", "tokens per second", "amount"),
    ("mfu", "MFU", "share"),
    ("goodput", "goodput", "share"),
)


def _figure(value: Any, form: str) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    if form == "share":
        return f"{100 * value:.1f}\u2009%"
    if form == "amount":
        return amount(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.4g}"


def _describe(folder: Path, name: str) -> dict[str, Any]:
    """Return all that the page says about one run; what isn't there yet is empty."""
    metrics = [row for row in read_lines(folder / METRICS) if isinstance(row.get("step"), int)]
    events, samples = read_lines(folder / EVENTS), read_lines(folder / SAMPLES)
    measured = figures(metrics, events)
    summary = _read_json(folder / "summary.json")
    environment = _read_json(folder / "environment.json")
    wall = measured["seconds"]["wall"]
    return {
        "name": name,
        "status": _status(events, summary),
        "figures": measured,
        "subtitle": _subtitle(measured, environment, events),
        "time": [(key, label, measured["seconds"][key], measured["seconds"][key] / wall) for key, label in TIME_PARTS]
        if wall > 0
        else [],
        "events": [_event_row(event) for event in events[-EVENTS_SHOWN:]],
        "events_left_out": max(0, len(events) - EVENTS_SHOWN),
        "samples": samples[: -SAMPLES_SHOWN - 1 : -1],
        "samples_left_out": max(0, len(samples) - SAMPLES_SHOWN),
        "evaluation": _table(_read_json(folder / "evaluation.json")),
        "files": [(title, text) for title, text in _texts(folder) if text],
        "drawn": _draw(metrics, events, name),
    }


def _status(events: Rows, summary: dict[str, Any]) -> str:
    """Return how the run ended by its summary, unless it has been started again since, else by its events."""
    ends = {
        "finished": "finished",
        "failed": "failed",
        "preempted": "stopped early",
        "hung": "hung",
        "rank_lost": "failed",
    }
    turns = [event for event in events if event.get("kind") in (*ends, "started", "resumed")]
    if not turns:
        return str(summary.get("status", "not started"))
    last = turns[-1]
    if "status" in summary and (last["kind"] in ends or last.get("time", 0) <= summary.get("time", 0)):
        return str(summary["status"])
    return ends.get(last["kind"], "running")


def _subtitle(measured: dict[str, Any], environment: dict[str, Any], events: Rows) -> str:
    parts = [f"{measured['steps']:,} steps"]
    if measured["seconds"]["wall"]:
        parts.append(duration(measured["seconds"]["wall"]))
    if measured["resumes"]:
        parts.append(f"resumed {measured['resumes']} time{'s' if measured['resumes'] > 1 else ''}")
    begun = next((event["time"] for event in events if isinstance(event.get("time"), (int, float))), None)
    if begun is not None:
        parts.append(f"begun {datetime.fromtimestamp(begun, UTC):%-d %b %Y, %H:%M} UTC")
    devices = environment.get("devices") or []
    machine = f"{len(devices)} × {devices[0].get('name')}" if devices else environment.get("processor")
    return " · ".join([*parts, str(machine)] if machine else parts)


def _event_row(event: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return step, time, kind and details of an event as text."""
    details = {key: value for key, value in event.items() if key not in ("kind", "step", "time")}
    time = event.get("time")
    return (
        f"{event.get('step', 0):,}" if isinstance(event.get("step"), int) else "",
        f"{datetime.fromtimestamp(time, UTC):%-d %b %H:%M:%S}" if isinstance(time, (int, float)) else "",
        str(event.get("kind", "")).replace("_", " "),
        ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in details.items()),
    )


def _table(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten an evaluation into named values."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and {"value", "standard_error", "chance", "n"} <= set(item):
            rows.append((name, _score(item)))
        elif isinstance(item, dict):
            rows += _table(item, f"{name} · ")
        elif isinstance(item, float):
            rows.append((name, f"{item:,.5g}"))
        else:
            rows.append((name, str(item) if not isinstance(item, list) else json.dumps(item, ensure_ascii=False)[:500]))
    return rows


def _score(score: dict[str, Any]) -> str:
    """Return the score of a task on one line."""
    numbers = {key: f"{item:,.5g}" for key, item in score.items() if isinstance(item, (int, float))}
    error = f" ± {numbers['standard_error']}" if "standard_error" in numbers else ""
    beside = [f"{key} {numbers[key]}" for key in ("chance", "copy", "n") if key in numbers]
    return f"{numbers.get('value', '–')}{error} ({', '.join(beside)})"


def _side_by_side(tables: list[list[tuple[str, str]]]) -> list[tuple[str, list[str]]]:
    """Return each name with its value in every table, in the order in which the names are first met."""
    names = dict.fromkeys(name for table in tables for name, _ in table)
    return [(name, [dict(table).get(name, "–") for table in tables]) for name in names]


def _texts(folder: Path) -> list[tuple[str, str]]:
    return [
        ("Configuration", _read_text(folder / "config.yaml")),
        ("Overrides", _read_text(folder / "overrides.yaml")),
        ("Environment", _read_text(folder / "environment.json")),
        ("Summary", _read_text(folder / "summary.json")),
    ]


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    cut = len(text) - FILE_CHARACTERS
    return text if cut <= 0 else f"{text[:FILE_CHARACTERS]}\n… {cut:,} more characters"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _draw(metrics: Rows, events: Rows, name: str) -> dict[str, Any]:
    """Return what the page's script draws of a run: thinned curves by step, and what a step is in tokens and time."""
    curves = {}
    for chart in CHARTS:
        for key, is_smoothed in ((chart.key, chart.is_smoothed), (chart.validation, False)):
            curve = _curve(metrics, key, is_smoothed) if key else None
            if curve:
                curves[str(key)] = curve
    return {
        "name": name,
        "curves": curves,
        "rulers": _rulers(metrics, events),
        "events": [
            {"step": event["step"], "kind": str(event.get("kind", "")).replace("_", " ")}
            for event in events[-EVENTS_SHOWN:]
            if isinstance(event.get("step"), int)
        ],
    }


def _rulers(metrics: Rows, events: Rows) -> dict[str, list[float]]:
    """Return steps with their tokens and seconds since the start: about 300, and those around each resume."""
    rows = [row for row in metrics if isinstance(row.get("tokens"), int) and isinstance(row.get("time"), (int, float))]
    resumed = {event.get("step") for event in events if event.get("kind") == "resumed"}
    stride = max(1, len(rows) // 300)
    kept = [
        row
        for index, row in enumerate(rows)
        if index % stride == 0 or index == len(rows) - 1 or row["step"] in resumed or row["step"] - 1 in resumed
    ]
    times = [row["time"] for row in [*events, *rows] if isinstance(row.get("time"), (int, float))]
    begin = min(times, default=0)
    return {
        "step": [row["step"] for row in kept],
        "tokens": [row["tokens"] for row in kept],
        "seconds": [round(row["time"] - begin, 1) for row in kept],
    }


def _curve(metrics: Rows, key: str, is_smoothed: bool) -> dict[str, Any] | None:
    rows = [row for row in metrics if isinstance(row.get(key), (int, float))]
    if not rows:
        return None
    steps, values = [row["step"] for row in rows], [float(row[key]) for row in rows]
    raw_x, raw_y = thin(steps, values)
    curve: dict[str, Any] = {"x": raw_x, "y": significant(raw_y), "count": len(rows)}
    if is_smoothed and len(rows) >= 20:
        radius = max(2, round(len(rows) * SMOOTHING))
        line_x, line_y = every(steps, smooth(values, radius))
        curve["smooth"] = {"x": line_x, "y": significant(line_y)}
        low, high = robust_range(values)
        margin = (high - low) * 0.25
        if key != "loss" and (max(values) > high + margin or min(values) < low - margin):
            curve["range"] = significant([max(min(values), low - margin), min(max(values), high + margin)])
    return curve


def _beside(chart: Chart, drawn: dict[str, Any]) -> bool:
    return chart.validation is not None and chart.validation in drawn["curves"]


def _run(request: Request) -> int:
    composed = request.compose("report", ReportConfig)
    if composed is None:
        return 0
    config = composed.value
    sources = config.source if isinstance(config.source, list) else [config.source]
    runs = [_run_folder(str(source)) for source in sources]
    if not runs:
        raise UserError("`source` names no run: give source=RUN or source=[RUN1,RUN2]")
    output = Path(config.output) if config.output else (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if output.is_dir():
        raise UserError(f"`output={output}` is a folder; give the name of a file, such as {output / 'report.html'}")
    if not output.parent.is_dir():
        raise UserError(f"`output={output}`: there is no folder {output.parent} to write it to")
    write_report(runs, output)
    print(json.dumps({"report": str(output), "bytes": output.stat().st_size}) if request.json else output)
    return 0


def _run_folder(source: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"`source={source}`: there is no such folder; a run is a folder such as runs/NAME")
    if not any((folder / name).exists() for name in ("config.yaml", METRICS, EVENTS, "summary.json")):
        raise UserError(f"`source={source}` is not a run: it has neither config.yaml nor {METRICS} nor {EVENTS}")
    return folder


VERB = Verb(
    name="report",
    summary="one run, or several side by side, as one self-contained page",
    run=_run,
    keys=(("source=RUN", "a run folder, or several: source=[RUN1,RUN2]"), ("output=FILE", "the page to write")),
    examples=(
        "headrace report source=runs/demo",
        "headrace report source=[runs/small,runs/large] output=comparison.html",
        "headrace report source=runs/demo --json",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    raise SystemExit(VERB.main())
