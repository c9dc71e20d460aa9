"""The dataset that most tests read, made once per session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from small_data import make_dataset, walking_texts

# Before torch is imported: on a busy machine two threads wait for each other at every small operation.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no fault of the code under test.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is cached out of the user's folders, for commands that tests start too."""
    os.environ["HEADRACE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that no test may change."""
    return make_dataset(tmp_path_factory.mktemp("small"), walking_texts(300))


@pytest.fixture
def own_dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset, to be damaged."""
    return Path(shutil.copytree(small_dataset, tmp_path / "own-dataset"))
