"""Batch scripts, run by a real shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.preparation.slurm.script import batch_script, log_pattern, quoted

NASTY = [
    "$(touch hacked)",
    "`touch hacked`",
    "a; touch hacked",
    "'; touch hacked; '",
    '"; touch hacked; "',
    "a\ntouch b",
]


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "script").write_text(script)
    return subprocess.run(
        ["bash", "script"], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_words_of_a_command_arrive_as_they_are(tmp_path):
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    options = {"job-name": NASTY[0], "comment": NASTY[4], "exclusive": None}
    done = run(batch_script(options, [], [*show, *NASTY]), tmp_path)
    assert json.loads(done.stdout) == NASTY and done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["script"]


def test_modules_are_loaded_first_and_one_that_is_missing_ends_the_task(tmp_path):
    function = {"BASH_FUNC_module%%": '() { echo "module $*"; [ "$2" != missing ]; }'}
    done = run(batch_script({}, ["gcc/13.2", "a b;c"], ["echo", "done"]), tmp_path, **function)
    assert done.stdout == "module load gcc/13.2\nmodule load a b;c\ndone\n"
    done = run(batch_script({}, ["missing"], ["echo", "done"]), tmp_path, **function)
    assert done.stdout == "module load missing\n" and done.returncode == 1


def test_a_task_imports_this_package_before_an_installed_one(tmp_path):
    program = "import data_pipeline, other; print(data_pipeline.__file__, other.__file__)"
    (tmp_path / "other.py").write_text("")
    (tmp_path / "data_pipeline").mkdir()
    (tmp_path / "data_pipeline" / "__init__.py").write_text("")
    done = run(batch_script({}, [], [sys.executable, "-P", "-c", program]), tmp_path, PYTHONPATH=str(tmp_path))
    import data_pipeline

    assert done.stdout.split() == [data_pipeline.__file__, str(tmp_path / "other.py")]


def test_an_option_is_one_line_whatever_its_value():
    script = batch_script({"account": 'me "and" \\you', "exclusive": None}, [], ["true"])
    assert script.splitlines()[:3] == ["#!/bin/bash", '#SBATCH --account="me \\"and\\" \\\\you"', "#SBATCH --exclusive"]
    with pytest.raises(AssertionError):
        quoted("a\nb")


def test_a_percent_sign_in_a_folder_is_no_placeholder():
    assert log_pattern(Path("/data/%A_%a")) == "/data/%%A_%%a/%A_%a.log"
