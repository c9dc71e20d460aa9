"""Runs commands as a user would, and kills them as a lost machine would."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]
COMMAND_SECONDS = 240.0
OWN_PORTS = 15_000, 30_000


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def headrace_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("headrace")]


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without anything of a launcher, a tracker or a scheduler; one thread a process."""
    launcher = ("RANK", "LOCAL_", "WORLD_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC", "SLURM", "WANDB", "DS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    kept |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "COLUMNS": "200"}
    return kept | more


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def torchrun(processes: int, *arguments: str) -> list[str]:
    """Return a command under torchrun; its rendezvous takes a free port."""
    standalone = ("--standalone", "--nproc-per-node", str(processes))
    return python("-m", "torch.distributed.run", *standalone, *arguments)


def run_command(command: Sequence[str], folder: Path, seconds: float = COMMAND_SECONDS, **environment: str) -> Finished:
    """Run a command in a folder to its end; none of its children outlives it."""
    process = start_command(command, folder, **environment)
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        kill_all(process)
    return Finished(process.returncode, out, err)


def start_command(
    command: Sequence[str], folder: Path, asked: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start a command in a folder; `asked`: it reads what is written to it."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=clean_environment(**environment),
        stdin=subprocess.PIPE if asked else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    """Return a port that nobody listens at.

    Not one of those that the system gives to whoever connects: until this one is used, other tests would get it.
    """
    while True:
        port = random.SystemRandom().randint(*OWN_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder and its folders, by relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a command with all its children, as a lost machine would. Launchers' workers lead groups of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running command brings about; fail with what it printed if it ends before."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} too early:\n{process.stderr.read()}")
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file that is still written to; none if there is none yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
