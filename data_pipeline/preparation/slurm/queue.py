"""What SLURM knows: which tasks of an array wait, run or have ended. Arrays are known by their names alone.

A name is chosen before the array is submitted, so that whoever submitted it can be killed at any instant, and the next
one finds it. Accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data_pipeline.foundation.errors import Failure, UserError

COMMAND_SECONDS = 60.0
ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL"),
    *("DEADLINE", "REVOKED", "SPECIAL_EXIT"),
}
STUCK = {"JobHoldMaxRequeue", "launch failed requeued held", "BadConstraints", "DependencyNeverSatisfied"}
"""Reasons for which a task would wait for ever."""
UNDECIDED = re.compile("not available|busy")
"""Answers that a cluster also gives while its nodes are down or taken."""
INPUT_VARIABLES = {"array": "SBATCH_ARRAY_INX", "time": "SBATCH_TIMELIMIT", "mem": "SBATCH_MEM_PER_NODE"}
OTHER_INPUT_VARIABLES = ("SBATCH_EXPORT", "SBATCH_GET_USER_ENV", "SBATCH_WAIT", "SBATCH_DEBUG", "SBATCH_NO_REQUEUE")
CLIENT_VARIABLES = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")


class NoAnswer(Exception):
    """SLURM didn't answer, or not in time."""


@dataclass(frozen=True)
class ArrayTask:
    """One task of an array.

    Args:
        job: id of the array.
        rank: number in it.
        state: as SLURM calls it: PENDING, RUNNING, COMPLETED, …
        reason: of that state, where there is one.
    """

    job: str
    rank: int
    state: str
    reason: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED or self.is_stuck

    @property
    def is_stuck(self) -> bool:
        return self.state == "PENDING" and self.reason in STUCK


def array_tasks(name: str) -> list[ArrayTask]:
    """Return all tasks of an array that SLURM remembers; those that ended some minutes ago it may have forgotten.

    Raises:
        NoAnswer: ask again later.
    """
    answer = _ask("squeue", *_mine(name), "--array", "--states=all", "--noheader", "--format=%F|%K|%T|%r")
    return [ArrayTask(job, int(rank), state, reason) for job, rank, state, reason in _fields(answer)]


def active_arrays(prefix: str) -> set[str]:
    """Return the names of the user's arrays that wait or run and begin with a prefix. Raises NoAnswer."""
    answer = _ask("squeue", f"--user={os.getuid()}", "--noheader", "--format=%j")
    return {name for name in answer.splitlines() if name.startswith(prefix)}


def cancel_array(name: str) -> None:
    """Tell SLURM to end all tasks of an array; it does so after a while. Raises NoAnswer."""
    _ask("scancel", *_mine(name))


def check_script(script: str, options: Iterable[str], setting: str = "engine") -> None:
    """Let SLURM judge a batch script, without submitting it.

    Raises:
        UserError: it would be refused, or there is no SLURM.
        Failure: SLURM can't be asked.
    """
    try:
        with submission_environment(options):
            answer = _run("sbatch", "--test-only", input=script)
    except FileNotFoundError:
        raise UserError(f"{setting}=slurm: there is no SLURM here (no command `sbatch`): use {setting}=local") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{setting}=slurm: SLURM has not answered within {COMMAND_SECONDS:.0f} s") from None
    said = " ".join(answer.stderr.split())
    if answer.returncode == 0 or UNDECIDED.search(said):
        return
    if "ontact" in said or "configuration source" in said:
        raise Failure(f"{setting}=slurm: SLURM can't be reached: {said}")
    raise UserError(f"{setting}=slurm: SLURM refuses such a job: {said}")


@contextmanager
def submission_environment(options: Iterable[str]) -> Iterator[None]:
    """Take out of the environment what would override a script's options, or comes from a job that this process is in.

    To sbatch a variable counts more than a line of the script; defaults of the user's for other options stay.
    """
    overriding = {INPUT_VARIABLES.get(name, "SBATCH_" + name.upper().replace("-", "_")) for name in options}
    taken = {
        name: value
        for name, value in os.environ.items()
        if name in overriding
        or name in OTHER_INPUT_VARIABLES
        or (name.startswith("SLURM_") and name not in CLIENT_VARIABLES)
    }
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def waiting(tasks: Iterable[ArrayTask]) -> str:
    """Say what tasks wait for, where none runs; else nothing."""
    at_work = [task for task in tasks if not task.has_ended]
    if not at_work or any(task.state != "PENDING" for task in at_work):
        return ""
    reasons = sorted({task.reason for task in at_work} - {"None"})
    return f"job {at_work[0].job} waits ({', '.join(reasons)})" if reasons else ""


def _mine(name: str) -> tuple[str, ...]:
    return f"--user={os.getuid()}", f"--name={name}"


def _fields(answer: str) -> Iterator[list[str]]:
    for line in answer.splitlines():
        fields = line.split("|", 3)
        if len(fields) == 4 and fields[1].isdigit():
            yield fields


def _ask(*command: str) -> str:
    try:
        answer = _run(*command)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {COMMAND_SECONDS:.0f} s") from None
    if answer.returncode:
        raise NoAnswer(" ".join(answer.stderr.split()) or f"{command[0]} ended with {answer.returncode}")
    return answer.stdout


def _run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own, so that Ctrl-C reaches only us, who have to cancel the array with it."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_SECONDS, start_new_session=True, **options
    )
