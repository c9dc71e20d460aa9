"""`headrace jobs`: the runs that were submitted, with what SLURM and their own records say of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import printable
from data_pipeline.foundation.verb import Request, Verb


@dataclass
class JobsConfig:
    """Which runs are listed.

    Args:
        root: folder of runs.
    """

    root: str = "runs"


@dataclass(frozen=True)
class Row:
    """How a submitted run is.

    Args:
        job: its id in SLURM; in a chain that of the first that has not ended.
        state: as SLURM calls it, in lower case; as the run has recorded it, where SLURM has forgotten the job.
        reason: why it waits, where it does.
        loss: of the newest step; None before the first.
        limit_seconds: until SLURM ends the job; None if it doesn't run.
        left_seconds: until the last step, at the speed of late; None if it isn't known.
    """

    run: str
    job: str
    state: str
    reason: str
    step: int
    steps: int | None
    loss: float | None
    limit_seconds: float | None
    left_seconds: float | None


def rows(root: Path) -> list[Row]:
    """Return how all submitted runs in a folder are. Raises Failure: SLURM doesn't answer."""
    from launch.slurm.known import submitted_runs
    from launch.slurm.queue import job_states

    runs = submitted_runs(root)
    states = job_states(job for submitted in runs.values() for job in submitted.jobs)
    found = []
    for run, submitted in runs.items():
        active = [job for job in submitted.jobs if job in states and states[job].is_active]
        job = active[0] if active else submitted.jobs[-1]
        state = states.get(job)
        recorded, step, steps, loss, left = _record(run)
        shown = state.state.lower() if state else (recorded or "unknown")
        if state and not state.is_active and recorded:
            shown = recorded
        waits = state.reason if state and state.state == "PENDING" else ""
        running = state is not None and state.state == "RUNNING"
        limit = state.seconds_left if state else None
        found.append(Row(str(run), job, shown, waits, step, steps, loss, limit, left if running else None))
    return found


def _record(run: Path) -> tuple[str | None, int, int | None, float | None, float | None]:
    """Return what a run has recorded: how it ended, its step, all steps, its loss, seconds to its end."""
    from train.telemetry.recorder import EVENTS, METRICS, read_lines

    metrics: list[dict[str, Any]] = read_lines(run / METRICS)
    events = read_lines(run / EVENTS)
    ended = next((e["kind"] for e in reversed(events) if e.get("kind") in ("finished", "preempted", "failed")), None)
    steps = _steps(run)
    if not metrics:
        return ended, 0, steps, None, None
    last, late = metrics[-1], [row.get("step_seconds") for row in metrics[-20:]]
    times = sorted(time for time in late if isinstance(time, int | float))
    left = (steps - last["step"]) * times[len(times) // 2] if steps and times else None
    return ended, last["step"], steps, last.get("loss"), left


def _steps(run: Path) -> int | None:
    import yaml

    from launch.slurm.known import CONFIGURATION
    from train.run_files import LAUNCH

    try:
        return int(yaml.safe_load((run / LAUNCH / CONFIGURATION).read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def _table(found: list[Row]) -> str:
    from data_pipeline.foundation.progress import duration

    def time(seconds: float | None) -> str:
        return "" if seconds is None else duration(seconds)

    lines = [("RUN", "JOB", "STATE", "STEP", "LOSS", "LEFT", "LIMIT")]
    for row in found:
        steps = f"{row.step:,}" + (f"/{row.steps:,}" if row.steps else "")
        state = row.state + (f" ({row.reason})" if row.reason else "")
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        lines.append((printable(row.run), row.job, state, steps, loss, time(row.left_seconds), time(row.limit_seconds)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def run(request: Request) -> int:
    """Print the table; returns 0."""

    composed = request.compose("jobs", JobsConfig)
    if composed is None:
        return 0
    found = rows(Path(composed.value.root))
    if request.json:
        print(json.dumps([asdict(row) for row in found]))
    else:
        print(_table(found) if found else f"no run in {composed.value.root} was submitted to SLURM")
    return 0


VERB = Verb(
    name="jobs",
    summary="runs that were submitted to SLURM: state, step, loss, time left",
    run=run,
    keys=(("root", "folder of the runs"),),
    examples=("headrace jobs", "headrace jobs root=runs --json", "headrace jobs root=/data/runs"),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
