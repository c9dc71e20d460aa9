"""What SLURM does with jobs that we know by their ids, and what we ask of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.slurm.queue import COMMAND_SECONDS, ENDED, submission_environment


@dataclass(frozen=True)
class JobState:
    """How a job is.

    Args:
        state: as SLURM calls it.
        reason: of that state, where there is one.
        seconds_left: until its limit; None where it has none, or doesn't run.
        nodes: that it runs on.
    """

    state: str
    reason: str
    seconds_left: float | None
    nodes: str

    @property
    def is_active(self) -> bool:
        return self.state not in ENDED


def submit(script: str, options: Mapping[str, str | None], after: str | None = None) -> str:
    """Submit a batch script, which may wait for the end of another job; return the job's id.

    Raises:
        UserError: SLURM refuses it.
        Failure: it doesn't answer.
    """
    waiting = [f"--dependency=afterany:{after}"] if after else []
    with submission_environment(options):
        return _ask(["sbatch", "--parsable", *waiting, script], "SLURM hasn't taken the job").strip().partition(";")[0]


def job_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return how jobs are, by id (of a task of an array, `ID_TASK`); those that SLURM has forgotten are left out.

    Raises:
        Failure: SLURM doesn't answer.
    """
    wanted = set(jobs)
    if not wanted:
        return {}
    # All of the user's: a question for an id that is forgotten is an error, and ids of tasks can't be asked for alone.
    answer = _ask(
        ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%F_%K|%T|%L|%N|%r"],
        "SLURM can't be asked",
    )
    states = {}
    for line in answer.splitlines():
        shown, task, state, left, nodes, reason = line.split("|", 5)
        found = JobState(
            state, "" if reason == "None" else reason, seconds(left) if state == "RUNNING" else None, nodes
        )
        for name in {shown, task} & wanted:
            states[name] = found
    return states


def signal_job(job: str, name: str) -> None:
    """Send a signal to the processes of a job, not to its script. Raises Failure."""
    _ask(["scancel", f"--signal={name}", job], f"job {job} can't be told")


def cancel_job(job: str) -> None:
    """End a job at once. Raises Failure."""
    _ask(["scancel", job], f"job {job} can't be cancelled")


def seconds(text: str) -> float | None:
    """Return the seconds of a time as SLURM shows it: `D-HH:MM:SS`, `HH:MM:SS`, `MM:SS`; None for what is none."""
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
    except ValueError:
        return None
    total = 0
    for part in parts:
        total = 60 * total + part
    return float(total + (int(days) * 86400 if dash and days.isdigit() else 0))


def _ask(command: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, start_new_session=True)
    except FileNotFoundError:
        raise UserError(f"{what}: there is no SLURM here (no command `{command[0]}`)") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{what}: no answer within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode:
        raise Failure(f"{what}: {' '.join(done.stderr.split())}")
    return done.stdout
