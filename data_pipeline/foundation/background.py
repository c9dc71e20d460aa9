"""Work in a thread of its own, whose result is asked for later."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Background:
    """A thread that does one piece of work after another. A process that ends doesn't wait for it.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str):
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Do some work when all earlier work is done."""
        result: Future[Any] = Future()
        self._queue.put((result, work))
        return result

    def finish(self) -> None:
        """Wait until all work is done, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            done_into(*item)


def done_into(result: Future[Any], work: Callable[[], Any]) -> Future[Any]:
    """Do some work here and now, and put what it returns or raises into a future."""
    try:
        result.set_result(work())
    except BaseException as error:
        result.set_exception(error)
    return result
