"""Runs that nothing disturbs, made once per session: what others are compared with; and ways to run commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import run_command
from kills import Trainings
from small_runs import train_command

from launch.command import main


@pytest.fixture(scope="session")
def undisturbed(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return, by world size, the folder of a run from the first step to the last; made when first asked for."""
    runs: dict[int, Path] = {}

    def run_of(ranks: int) -> Path:
        if ranks not in runs:
            folder = tmp_path_factory.mktemp(f"undisturbed-{ranks}")
            finished = run_command(train_command(small_dataset, ranks=ranks), folder)
            assert finished.code == 0, finished.err
            runs[ranks] = folder / "runs" / "run"
        return runs[ranks]

    return run_of


@pytest.fixture(scope="session")
def trainings(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Start trainings on the small dataset in a fraction of a second."""
    started = Trainings(small_dataset, tmp_path_factory.mktemp("trainings"))
    yield started
    started.close()


@pytest.fixture
def headrace(tmp_path: Path, monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """Run the command in this process, in an empty folder; return its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
        code = main()
        return code, capfd.readouterr().err

    return run
