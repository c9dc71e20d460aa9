"""One small server for the tests that don't disturb it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, drawn_checkpoint, served


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    return drawn_checkpoint(tmp_path_factory.mktemp("served") / "drawn", small_dataset)


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[Served]:
    with served(checkpoint, "slots=4", "queue=16", "context=4096", "prefill=64", "body_bytes=100000") as running:
        yield running
