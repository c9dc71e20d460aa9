"""Runs that nothing disturbs, made once per session: what every other run is compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run_command
from small_runs import train_command


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
