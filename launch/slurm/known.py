"""Submitted runs, found by their folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError, printable
from train.run_files import LAUNCH

JOB, CONFIGURATION = "job.json", "config.yaml"


@dataclass(frozen=True)
class Submitted:
    """What `job.json` says.

    Args:
        name: of the run.
        jobs: ids in SLURM, several in a chain; `ID_TASK` for a run of a sweep.
        log: name of the log of a job, in the launch folder, with `{job}` for its id.
        time: of submission, seconds since 1970.
        processes: ranks of the run.
    """

    name: str
    jobs: list[str]
    log: str
    time: float
    processes: int


def read_submitted(run: Path) -> Submitted | None:
    """Return what was submitted for a run folder; None if nothing was."""
    try:
        return Submitted(**json.loads((run / LAUNCH / JOB).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def submitted_runs(root: Path) -> dict[Path, Submitted]:
    """Return the submitted runs in a folder of runs, the newest last."""
    found = {path.parents[1]: read_submitted(path.parents[1]) for path in root.glob(f"*/{LAUNCH}/{JOB}")}
    known = {run: submitted for run, submitted in found.items() if submitted is not None}
    return dict(sorted(known.items(), key=lambda item: (item[1].time, item[0])))


def require_submitted(source: str, root: str) -> tuple[Path, Submitted]:
    """Return a submitted run's folder, by its path or its name, and what was submitted.

    Raises:
        UserError: there is none.
    """
    for folder in (Path(source), Path(root) / source):
        if submitted := read_submitted(folder):
            return folder, submitted
    if Path(source).is_dir() or (Path(root) / source).is_dir():
        raise UserError(f"{printable(source)} was not submitted to SLURM: it has no {LAUNCH}/{JOB}")
    raise UserError(f"there is no run {printable(source)!r}: give a run's folder, or its name in root={root}")
