"""`headrace logs RUN`: what a submitted run's processes print; `--follow` until its job ends."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb

POLL_SECONDS, ASK_SECONDS = 0.5, 10.0
"""Between two looks at the file, and two questions to SLURM."""


@dataclass
class LogsConfig:
    """Whose log.

    Args:
        source: a run's folder, or its name in `root`.
        root: folder of runs.
    """

    source: str = "???"
    root: str = "runs"


def run(request: Request) -> int:
    """Print the log; returns 0."""
    from launch.slurm.known import require_submitted
    from launch.slurm.queue import job_states
    from train.run_files import LAUNCH

    composed = request.compose("logs", LogsConfig)
    if composed is None:
        return 0
    folder, submitted = require_submitted(composed.value.source, composed.value.root)
    logs = [folder / LAUNCH / submitted.log.format(job=job) for job in submitted.jobs]
    if not request.follow and not any(log.exists() for log in logs):
        raise UserError(f"{folder} has printed nothing yet: job {', '.join(submitted.jobs)} has not begun")
    at = {log: 0 for log in logs}
    asked = 0.0
    active = True
    while True:
        if request.follow and time.monotonic() - asked > ASK_SECONDS:
            active = any(state.is_active for state in job_states(submitted.jobs).values())
            asked = time.monotonic()
        for log in logs:
            at[log] = _print_from(log, at[log])
        if not request.follow or not active:
            return 0
        time.sleep(POLL_SECONDS)


def _print_from(log: Path, offset: int) -> int:
    """Print what a file has got since, and return where it ends."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(offset)
            shutil.copyfileobj(file, sys.stdout)
            sys.stdout.flush()
            return file.tell()
    except FileNotFoundError:
        return offset


VERB = Verb(
    name="logs",
    summary="what a submitted run prints",
    run=run,
    keys=(("RUN", "a run's folder, or its name"), ("root", "folder of the runs")),
    examples=("headrace logs runs/demo", "headrace logs demo --follow", "headrace logs source=runs/demo --follow"),
    flags=("--follow",),
    positional="source",
)

if __name__ == "__main__":
    sys.exit(VERB.main())
