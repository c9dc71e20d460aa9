"""The dataset that most tests read, made once per session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, hosts, why_no_hosts
from hypothesis import settings
from small_data import make_dataset, make_mixed_dataset, walking_texts
from soak import soaking, tables

# Before torch is imported: on a busy machine two threads wait for each other at every small operation.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no fault of the code under test.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that share what is dear to make run in one process: those of a file, of a cluster, of the trainings.

    What takes longest begins first, so that no process is left alone with it at the end.
    """
    first: set[pytest.Item] = set()
    for item in items:
        in_train = "train" in item.path.parts
        trained = [name for name in ("trainings", "saves") if in_train and name in getattr(item, "fixturenames", ())]
        together = trained[0] if trained else "slurm" if "slurm" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))
        if trained or {"system", "checkpoint", "slurm"} & set(item.path.parts):
            first.add(item)
    items.sort(key=lambda item: item not in first)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is cached out of the user's folders, for commands that tests start too."""
    os.environ["HEADRACE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that no test may change."""
    return make_dataset(tmp_path_factory.mktemp("small"), walking_texts(300))


@pytest.fixture(scope="session")
def mixed_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the sources `river` and `hill`, the second much smaller, that no test may change."""
    sources = {"river": walking_texts(250), "hill": walking_texts(60, seed=8)}
    return make_mixed_dataset(tmp_path_factory.mktemp("mixed"), sources)


@pytest.fixture
def own_dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset, to be damaged."""
    return Path(shutil.copytree(small_dataset, tmp_path / "own-dataset"))


@pytest.fixture
def two_hosts() -> Iterator[Hosts]:
    """Two hosts with a network between them, where this machine can have them."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(2) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what a soak has found, as tables in Markdown."""
    if soaking() and (text := tables()):
        terminalreporter.write_line(text)
