"""Launches that can't work: each ends with one clear line and exit code 2 or 1, and nothing is started or queued."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.command import main

PARTITION = "sbatch: error: Batch job submission failed: Invalid partition name specified"
EVIL = ("a\nb", "$(touch hacked)", "`touch hacked`", "a;touch hacked", "-oProxyCommand=touch hacked")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole of PATH, with an ssh that gets nowhere; nothing else is installed."""
    folder = tmp_path / "programs"
    folder.mkdir()
    write_program(folder / "ssh", "echo 'ssh: connect to host: Connection refused' >&2; exit 255")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def launch(monkeypatch, capsys, dataset: Path, *arguments: str, code: int = 2, verb: str = "train") -> str:
    """Type a command; return the one line for people."""
    given = (f"data.path={dataset}", "run.name=run", "tracker=none") if verb == "train" else ()
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["headrace", verb, *given, *arguments])
    assert main() == code
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headrace")]
    assert not Path("runs").exists() and not any(Path().rglob("hacked"))
    return line


TORCHRUN = {
    "no processes": (["cluster.processes=0"], "cluster.processes=0 must be at least 1"),
    "no nodes": (["cluster.nodes=0"], "cluster.nodes=0 must be at least 1"),
    "fewer restarts than none": (["cluster.restarts=-1"], "cluster.restarts=-1 must be at least 0"),
    "several nodes and no host": (["cluster.nodes=2"], "needs cluster.host=NAME"),
    "a host and one node": (["cluster.host=localhost"], "give cluster.nodes too"),
    "an unknown host": (["cluster.nodes=2", "cluster.host=no-such-host.invalid"], "no machine of that name is known"),
    "a port that isn't one": (["cluster.nodes=2", "cluster.host=localhost", "cluster.port=99999"], "isn't a port"),
    "a batch that doesn't divide": (["cluster.processes=3", "batch.sequences=8", "batch.micro=2"], "batch.sequences=8"),
    "an unknown key": (["cluster.proceses=2"], "Did you mean `cluster.processes`?"),
    "a word for a number": (["cluster.processes=many"], "cluster.processes"),
    "a key of another launcher": (["cluster.partition=gpu"], "unknown key `cluster.partition`"),
}
SLURM = {
    "no nodes": (["cluster.nodes=0"], "cluster.nodes=0 must be at least 1"),
    "more processes than GPUs": (["cluster.gpus=2", "cluster.processes=3"], "more than a node's GPUs"),
    "more processes than cores": (["cluster.cpus=2", "cluster.processes=4"], "fewer than a node's 4 processes"),
    "GPUs by a word": (["cluster.gpus=some"], "write a number, or a type and one"),
    "an option of ours": (["cluster.sbatch=['--output=x']"], "--output is ours to set"),
    "an option by its first letters": (["cluster.sbatch=['--part=x']"], "by cluster.partition"),
    "no option at all": (["cluster.sbatch=['rm -rf']"], "isn't an option such as"),
    "an option of two lines": (["cluster.sbatch=['--comment=a\nb']"], "isn't an option such as"),
    "an account of two lines": (["cluster.account='a\nb'"], "a word of printable characters"),
    "a module that is a command": (["cluster.modules=['x; touch hacked']"], "isn't the name of a module"),
    "a line of two": (["cluster.setup=['a\nb']"], "isn't one line"),
    "an unknown container runtime": (["cluster.container_runtime=docker"], "apptainer and pyxis"),
    "no chain": (["cluster.chain=0"], "cluster.chain=0 must be at least 1"),
    "no SLURM": ([], "there is no SLURM here"),
}
DEEPSPEED = {
    "an unknown launcher": ("node slots=1", ["cluster.launcher=mpi"], "there are pdsh and slurm"),
    "no hostfile there": (None, [], "can't be read"),
    "an empty hostfile": ("# nothing\n", [], "has no hosts"),
    "a line without slots": ("localhost\n", [], "line 1: 'localhost' isn't HOST slots=N"),
    "no slots": ("localhost slots=0\n", [], "isn't HOST slots=N"),
    "a host twice": ("localhost slots=1\nlocalhost slots=1\n", [], "line 2: localhost is there twice"),
    "an unknown host": ("no-such-host.invalid slots=1\n", [], "no machine of that name is known"),
    "more processes than slots": ("localhost slots=1\n", ["cluster.processes=2"], "localhost has 1 slots"),
    "a host that is an option": ("-oProxyCommand=x slots=1\n", [], "isn't a machine's name"),
    "no pdsh": ("localhost slots=1\n", [], "needs pdsh"),
    "no allocation": ("localhost slots=1\n", ["cluster.launcher=slurm"], "within an allocation"),
}


@pytest.mark.parametrize("case", TORCHRUN)
def test_torchrun(case, small_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings, expected = TORCHRUN[case]
    assert expected in launch(monkeypatch, capsys, small_dataset, "cluster=torchrun", *settings)


def test_torchrun_where_the_port_is_taken(small_dataset, tmp_path, monkeypatch, capsys, taken_port):
    monkeypatch.chdir(tmp_path)
    settings = ("cluster=torchrun", "cluster.nodes=2", "cluster.host=localhost", f"cluster.port={taken_port}")
    assert "choose another" in launch(monkeypatch, capsys, small_dataset, *settings)


@pytest.mark.parametrize("host", EVIL)
def test_torchrun_with_a_host_that_is_no_name(host, small_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ("cluster=torchrun", "cluster.nodes=2", f'cluster.host="{host}"')
    assert "isn't a machine's name" in launch(monkeypatch, capsys, small_dataset, *settings)


@pytest.mark.parametrize("case", SLURM)
def test_slurm(case, small_dataset, tmp_path, monkeypatch, capsys, programs):
    monkeypatch.chdir(tmp_path)
    settings, expected = SLURM[case]
    assert expected in launch(monkeypatch, capsys, small_dataset, "cluster=slurm", *settings)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (PARTITION, 2),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", 2),
        ("sbatch: error: Memory specification can not be satisfied", 2),
        ("sbatch: error: Invalid --time specification", 2),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", 1),
    ],
)
def test_slurm_says_why_it_refuses(said, code, small_dataset, tmp_path, monkeypatch, capsys, programs):
    write_program(programs / "sbatch", f"echo '{said}' >&2; exit 1")
    monkeypatch.chdir(tmp_path)
    line = launch(monkeypatch, capsys, small_dataset, "cluster=slurm", code=code)
    assert " ".join(said.split()) in line


@pytest.mark.parametrize("name", ["$(touch hacked)", "a;touch hacked", "../up", "a/b", "-n", "`touch hacked`"])
def test_a_run_with_a_name_that_could_be_more(name, small_dataset, tmp_path, monkeypatch, capsys, programs):
    monkeypatch.chdir(tmp_path)
    line = launch(monkeypatch, capsys, small_dataset, "cluster=slurm", f"run.name='{name}'")
    assert "can't be a folder's name" in line


@pytest.mark.parametrize("case", DEEPSPEED)
def test_deepspeed(case, small_dataset, tmp_path, monkeypatch, capsys, programs):
    monkeypatch.chdir(tmp_path)
    hostfile, settings, expected = DEEPSPEED[case]
    if hostfile is not None:
        Path("hosts").write_text(hostfile)
    settings = ("cluster=deepspeed", "cluster.hostfile=hosts", *settings)
    assert expected in launch(monkeypatch, capsys, small_dataset, *settings)


def test_deepspeed_where_ssh_gets_nowhere(small_dataset, tmp_path, monkeypatch, capsys, programs):
    write_program(programs / "pdsh", "exit 0")
    monkeypatch.chdir(tmp_path)
    Path("hosts").write_text("localhost slots=1\n")
    line = launch(monkeypatch, capsys, small_dataset, "cluster=deepspeed", "cluster.hostfile=hosts")
    assert "ssh doesn't get to localhost without a question: ssh: connect to host: Connection refused" in line


def test_deepspeed_in_a_folder_that_a_shell_would_read(small_dataset, tmp_path, monkeypatch, capsys, programs):
    folder = tmp_path / "a;touch hacked"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("hosts").write_text("localhost slots=1\n")
    line = launch(monkeypatch, capsys, small_dataset, "cluster=deepspeed", "cluster.hostfile=hosts")
    assert "that a shell on another host would read" in line


def test_deepspeed_with_a_variable_that_a_shell_would_read(small_dataset, tmp_path, monkeypatch, capsys, programs):
    write_program(programs / "pdsh", "exit 0")
    write_program(programs / "ssh", "exit 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "$(touch hacked)")
    Path("hosts").write_text("localhost slots=1\n")
    settings = ("cluster=deepspeed", "cluster.hostfile=hosts", "cluster.forward=[MINE]")
    monkeypatch.setattr(sys, "argv", ["headrace", "train", f"data.path={small_dataset}", "run.name=run", *settings])
    assert main() == 2
    assert "the variable MINE has characters" in capsys.readouterr().err
    assert not any(tmp_path.rglob("hacked"))


@pytest.mark.parametrize(
    ("verb", "arguments", "expected"),
    [
        ("train", ["cluster=kubernetes"], "`cluster` has no option `kubernetes`"),
        ("train", ["cluster=slurm", "-m"], "no key has several values"),
        ("train", ["cluster=local,slurm", "-m"], "all runs of a sweep are on one cluster"),
        ("prepare", ["output=x", "cluster=torchrun"], "`prepare` is one process"),
        ("evaluate", ["source=x", "cluster=slurm", "cluster.processes=2"], "`evaluate` is one process"),
        ("logs", ["nowhere"], "there is no run 'nowhere'"),
        ("cancel", ["nowhere"], "there is no run 'nowhere'"),
        ("doctor", ["cluster=torchrun"], "doctor looks at this machine"),
    ],
)
def test_other_mistakes(verb, arguments, expected, small_dataset, tmp_path, monkeypatch, capsys, programs):
    monkeypatch.chdir(tmp_path)
    line = launch(monkeypatch, capsys, small_dataset, *arguments, verb=verb)
    assert expected in line


def test_a_secret_is_not_written_into_a_script(small_dataset, tmp_path, monkeypatch, capsys, programs):
    write_program(programs / "sbatch", "exit 0")
    monkeypatch.chdir(tmp_path)
    place = "checkpoint.upload='s3://me:hidden@bucket/runs'"
    line = launch(monkeypatch, capsys, small_dataset, "cluster=slurm", place)
    assert "holds a secret" in line and "hidden" not in line


def test_ranks_are_not_told_to_launch(small_dataset, tmp_path, monkeypatch, capsys):
    from train.__main__ import VERB

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    assert VERB.main([f"data.path={small_dataset}", "cluster=slurm"]) == 2
    assert "`python -m train` is what a launcher starts" in capsys.readouterr().err
    assert os.listdir() == []
