"""Threads that fetch ahead outlive whatever a fetch comes to."""

from __future__ import annotations

import queue

import pytest

from data_pipeline.foundation.errors import Failure
from data_pipeline.manifest import StoredFile
from data_pipeline.storage.dataset_files import NoRoom
from data_pipeline.storage.fetch_ahead import FetchAhead

SECONDS = 20


def a_file(name: str) -> StoredFile:
    return StoredFile(name, 1, name)


@pytest.mark.parametrize("error", [Failure("away"), NoRoom("full"), ZeroDivisionError(), OSError(5, "disk")])
def test_after_any_error_what_is_wanted_next_is_fetched(error):
    fetched: queue.SimpleQueue[str] = queue.SimpleQueue()

    def fetch(file: StoredFile) -> None:
        fetched.put(file.name)
        if file.name.startswith("bad"):
            raise error

    ahead = FetchAhead(fetch, threads=1)
    for number in range(3):
        ahead.want([a_file(f"bad {number}")])
        assert fetched.get(timeout=SECONDS) == f"bad {number}"
        ahead.want([a_file(f"good {number}")])
        assert fetched.get(timeout=SECONDS) == f"good {number}"
