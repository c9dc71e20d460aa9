"""Fetches what will be needed soon, in background threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from data_pipeline.manifest import StoredFile
from data_pipeline.storage.dataset_files import NoRoom


class FetchAhead:
    """Threads that live as long as there is something to fetch.

    What fails is not told, nor tried again while it is wanted: whoever needs it will try for himself.

    Args:
        fetch: fetches one file.
        threads: at most so many files at once.
    """

    def __init__(self, fetch: Callable[[StoredFile], None], threads: int):
        self._fetch, self._threads = fetch, threads
        self._wanted: deque[StoredFile] = deque()
        self._failed: set[StoredFile] = set()
        self._running = 0
        self._lock = threading.Lock()

    def want(self, files: Sequence[StoredFile]) -> None:
        """Fetch these from now on, in this order, and no others."""
        with self._lock:
            self._failed.intersection_update(files)
            self._wanted = deque(file for file in files if file not in self._failed)
            more = min(self._threads - self._running, len(self._wanted))
            self._running += more
        for _ in range(more):
            threading.Thread(target=self._work, name="fetch-ahead", daemon=True).start()

    def _work(self) -> None:
        while (file := self._next()) is not None:
            try:
                self._fetch(file)
            except NoRoom:
                # What comes behind it is less urgent; the reader will ask again.
                with self._lock:
                    self._wanted.clear()
            except Exception:  # of any kind: the thread must live on, or be counted out
                with self._lock:
                    self._failed.add(file)

    def _next(self) -> StoredFile | None:
        with self._lock:
            if self._wanted:
                return self._wanted.popleft()
            self._running -= 1
            return None
