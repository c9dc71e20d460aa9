"""Batch scripts of runs, run by a real shell with stand-ins for SLURM's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import REPOSITORY

from launch.slurm.script import Script, sweep_script

NASTY = (
    "$(touch hacked)",
    "`touch hacked`",
    "a; touch hacked",
    "'; touch hacked; '",
    '"; touch hacked; "',
    "a\ntouch b",
)
SHOW = "import json, os, sys; json.dump([sys.argv[1:], os.getcwd()], open(os.environ['SHOWN'], 'w'))"
STAND_INS = {
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": 'case "$*" in "show hostnames"*) echo node1 ;; "show node"*) echo "a NodeAddr=127.0.0.1 b" ;;'
    ' *) echo "$*" >> "$SCONTROL" ;; esac',
    "squeue": "echo 2100-01-01T00:00:00",
    "sleep": "exit 0",
    "apptainer": 'echo "$*" > "$APPTAINER"; while [ "$1" != image.sif ]; do shift; done; shift; exec "$@"',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder in one whose name is as bad as names can be, with a module `show` in its copy of the code."""
    run = tmp_path / "run $(touch hacked)"
    (run / "launch").mkdir(parents=True)
    (run / "launch" / "code").symlink_to(REPOSITORY)
    (tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    (tmp_path / "work $(touch hacked)").mkdir()
    return tmp_path


def script_in(folder: Path, **more) -> Script:
    made = Script(
        title="a run",
        options={"job-name": "run", "account": NASTY[4], "exclusive": None},
        run=folder / "run $(touch hacked)",
        working_folder=folder / "work $(touch hacked)",
        python=sys.executable,
        module="show",
        arguments=NASTY,
        processes=0,
        gpus=False,
        modules=[],
        setup=[],
        container=None,
        container_runtime="apptainer",
        restarts=2,
        requeues=True,
    )
    return replace(made, **more)


def execute(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "show.py").write_text(SHOW)
    (folder / "script").write_text(script.replace('/launch/code"', f'/launch/code:{folder}"'))
    variables = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SHOWN": str(folder / "shown")}
    variables |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
    variables |= {"SCONTROL": str(folder / "scontrol"), "APPTAINER": str(folder / "apptainer"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "script"], cwd=folder, capture_output=True, text=True, timeout=60, env={**variables, **environment}
    )


def assert_nothing_was_hacked(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name == "hacked" and "code" not in path.parts]


def test_settings_and_folders_arrive_as_they_are(folder):
    done = execute(script_in(folder).text(), folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "shown").read_text()) == [list(NASTY), str(folder / "work $(touch hacked)")]
    assert_nothing_was_hacked(folder)


def test_an_option_is_one_line_whatever_its_value(folder):
    lines = [line for line in script_in(folder).text().splitlines() if line.startswith("#SBATCH")]
    assert lines == ['#SBATCH --job-name="run"', '#SBATCH --account="\\"; touch hacked; \\""', "#SBATCH --exclusive"]


def test_the_users_lines_are_run_and_modules_loaded(folder):
    function = {"BASH_FUNC_module%%": '() { echo "module $*"; [ "$2" != missing ]; }'}
    script = script_in(folder, modules=["cuda/12.8", "a b;c"], setup=["echo set up"])
    assert execute(script.text(), folder, **function).stdout == "module load cuda/12.8\nmodule load a b;c\nset up\n"
    done = execute(script_in(folder, modules=["missing"]).text(), folder, **function)
    assert done.returncode == 1 and done.stdout == "module load missing\n"


def test_processes_run_in_a_container(folder):
    done = execute(script_in(folder, container="image.sif", gpus=True).text(), folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "shown").read_text())[0] == list(NASTY)
    assert (folder / "apptainer").read_text().startswith("exec --nv --bind ")
    pyxis = script_in(folder, container="a b.sqsh", container_runtime="pyxis").text()
    assert "--container-image='a b.sqsh' " in pyxis


FAKE_RANK = """
import json, os, sys
run = {run!r}
if os.environ["RANK"] == "0":
    with open(os.path.join(run, "events.jsonl"), "a") as file:
        for kind in os.environ["KINDS"].split():
            print(json.dumps({{"kind": kind, "step": 3, "reason": "told"}}), file=file)
sys.exit(int(os.environ["CODE"]))
"""


@pytest.mark.parametrize(
    ("kinds", "code", "ends", "requeued"),
    [
        ("started preempted", "75", 0, True),
        ("started preempted", "75", 75, False),
    ],
)
def test_how_the_run_ended_decides_what_is_next(folder, kinds, code, ends, requeued):
    (folder / "rank.py").write_text(FAKE_RANK.format(run=str(folder / "run $(touch hacked)")))
    requeues = ends != 75
    script = script_in(folder, module="rank", processes=2, requeues=requeues, arguments=[]).text()
    done = execute(script, folder, KINDS=kinds, CODE=code)
    assert done.returncode == ends, done.stderr
    asked = (folder / "scontrol").read_text() if (folder / "scontrol").exists() else ""
    assert asked == ("requeue 7\n" if requeued else "")
    assert_nothing_was_hacked(folder)


def test_a_task_of_a_sweep_becomes_its_runs_script(tmp_path):
    scripts = []
    for number, name in enumerate(("a", "b $(touch hacked)")):
        scripts.append(tmp_path / name)
        scripts[-1].write_text(f"echo {number}\n")
    (tmp_path / "sweep").write_text(sweep_script({"array": "0-1"}, scripts))
    done = subprocess.run(
        ["bash", "sweep"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    )
    assert done.stdout == "1\n"
    assert not (tmp_path / "hacked").exists()
