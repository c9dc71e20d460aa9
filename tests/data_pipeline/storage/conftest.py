"""A server to read from, patience that doesn't last long, and little that is read ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from file_server import FileServer, file_server
from small_data import make_dataset, walking_texts

from data_pipeline import loader
from data_pipeline.foundation import remote


@pytest.fixture(autouse=True)
def everything_is_small(monkeypatch):
    monkeypatch.setattr(loader, "CHUNK_TOKENS", 1 << 12)
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "READ_SECONDS", 0.15)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory) -> Path:
    """A dataset of a dozen small shards, that no test may change."""
    return make_dataset(tmp_path_factory.mktemp("many"), walking_texts(120), shard_tokens=4096)


@pytest.fixture
def watched() -> Callable[[Path], AbstractContextManager[list[int]]]:
    return watch


@contextmanager
def watch(folder: Path) -> Iterator[list[int]]:
    """Look at a folder all the time; what is given are the bytes of all files in it, whenever they were summed up."""
    sums: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.0005):
            sums.append(bytes_in(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sums
    finally:
        over.set()
        thread.join()


def bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:  # just removed
            continue
    return total
