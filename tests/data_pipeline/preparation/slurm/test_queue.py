"""A SLURM that answers in ways that a healthy one on this machine doesn't: by programs in its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.slurm import engine, queue
from data_pipeline.preparation.slurm.queue import ArrayTask, NoAnswer, array_tasks, check_script, submission_environment
from data_pipeline.preparation.slurm.settings import SlurmConfig


@pytest.fixture
def program(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
    """Put a shell script in the place of a program of SLURM's."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        return tmp_path / name

    return put


def test_tasks_are_told_by_rank_and_other_lines_are_left_out(program):
    program("squeue", "printf '7|0|RUNNING|None\\n7|12|PENDING|Resources\\n8|N/A|RUNNING|None\\nslurm says|hello\\n'")
    assert array_tasks("x") == [ArrayTask("7", 0, "RUNNING", "None"), ArrayTask("7", 12, "PENDING", "Resources")]


def test_no_answer_is_not_no_tasks(program, monkeypatch):
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(NoAnswer, match="Unable to contact slurm controller"):
        array_tasks("x")
    program("squeue", "exec sleep 60")
    monkeypatch.setattr(queue, "COMMAND_SECONDS", 0.1)
    with pytest.raises(NoAnswer, match="no answer within"):
        array_tasks("x")


def test_a_long_silence_is_told_and_nothing_is_cancelled(program, monkeypatch, tmp_path):
    program("squeue", "echo gone >&2; exit 1")
    cancelled = program("scancel", f"touch {tmp_path}/cancelled").with_name("cancelled")
    monkeypatch.setattr(engine, "SILENCE_SECONDS", -1.0)
    with pytest.raises(Failure, match=r"SLURM has not answered for .* \(gone\).*the same command waits for it"):
        engine.SlurmEngine(SlurmConfig(), tmp_path / "slurm", "test")
    assert not cancelled.exists()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified",
            UserError,
        ),
        ("allocation failure: User's group not permitted to use this partition", UserError),
        ("allocation failure: Unable to contact slurm controller (connect failure)", Failure),
        ("sbatch: fatal: Could not establish a configuration source", Failure),
    ],
)
def test_a_refusal_is_the_users_mistake_and_silence_is_not(program, answer, expected):
    program("sbatch", f"cat >&2 <<'E'\n{answer}\nE\nexit 1")
    with pytest.raises(expected) as caught:
        check_script("#!/bin/sh\n", {})
    assert " ".join(answer.split()) in str(caught.value)


def test_nodes_that_are_taken_are_no_refusal(program):
    program("sbatch", "echo 'allocation failure: Requested nodes are busy' >&2; exit 1")
    check_script("#!/bin/sh\n", {})


def test_without_slurm_the_user_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no SLURM here.*engine=local"):
        check_script("#!/bin/sh\n", {})


def test_variables_that_would_override_a_script_are_put_aside(monkeypatch):
    aside = {"SBATCH_JOB_NAME": "a", "SBATCH_ARRAY_INX": "0-9", "SBATCH_EXPORT": "NONE", "SLURM_ARRAY_TASK_ID": "3"}
    kept = {"SBATCH_ACCOUNT": "me", "SLURM_CONF": "/etc/slurm.conf", "SLURMISH": "1"}
    for name, value in (aside | kept).items():
        monkeypatch.setenv(name, value)
    with submission_environment(["job-name", "array", "mem"]):
        seen = dict(
            line.split("=", 1) for line in subprocess.check_output(["env"], text=True).splitlines() if "=" in line
        )
    assert not aside.keys() & seen.keys()
    assert kept.items() <= seen.items() and aside.items() <= os.environ.items()
    with submission_environment(["account"]):
        assert "SBATCH_ACCOUNT" not in os.environ


def test_what_tasks_wait_for_is_told_while_none_runs():
    pending = [ArrayTask("7", 0, "PENDING", "Priority"), ArrayTask("7", 1, "PENDING", "Resources")]
    done = ArrayTask("7", 2, "COMPLETED", "None")
    assert queue.waiting([*pending, done]) == "job 7 waits (Priority, Resources)"
    assert queue.waiting([*pending, ArrayTask("7", 2, "RUNNING", "None")]) == queue.waiting([done]) == ""


def test_a_folder_that_slurm_cannot_log_into_is_refused_without_harm_to_what_is_in_it(tmp_path):
    with pytest.raises(Failure, match="without backslashes"):
        engine.SlurmEngine(SlurmConfig(), tmp_path / "a\\b", "test")
