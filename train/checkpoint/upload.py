"""Sending published checkpoints to a second home, in a thread of rank 0's that never stops training."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.background import Background
from data_pipeline.foundation.errors import Failure, UserError
from train.checkpoint.folder import list_checkpoints, step_of, verify_checkpoint
from train.checkpoint.remote import RemoteCheckpoints
from train.checkpoint.retention import Retention


@dataclass(frozen=True)
class Sent:
    """What became of a checkpoint that was to be sent: nothing is wrong where `problem` is None."""

    step: int
    checkpoint: str
    place: str
    seconds: float
    problem: str | None = None


class Uploader:
    """Keeps a second home of a run's checkpoints up to date.

    What couldn't be sent is tried again when the next checkpoint is published. The newest goes first.

    Args:
        remote: the second home.
        folder: of the run's checkpoints.
        rules: which of them stay there.
    """

    def __init__(self, remote: RemoteCheckpoints, folder: Path, rules: Retention):
        self._remote, self._folder, self._rules = remote, folder, rules
        self._thread = Background("upload")
        self._news: queue.SimpleQueue[Sent] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._sending: Path | None = None
        self._until = 0

    @property
    def sending(self) -> tuple[Path, ...]:
        """The checkpoint that is being read, which must not be removed."""
        return (self._sending,) if self._sending else ()

    def published(self, checkpoint: Path) -> None:
        """Send a checkpoint, and what is missing there, as soon as the thread is free."""
        self._until = step_of(checkpoint)
        self._known.discard(checkpoint.name)
        self._thread.submit(self._catch_up)

    def news(self) -> list[Sent]:
        """Return what has been sent, or couldn't be, since the last call."""
        news = []
        while not self._news.empty():
            news.append(self._news.get())
        return news

    def finish(self) -> None:
        """Wait until all that was published is sent or given up."""
        self._thread.finish()

    def _catch_up(self) -> None:
        tried: set[str] = set()
        while (checkpoint := self._next(tried)) is not None:
            tried.add(checkpoint.name)
            self._sending, started = checkpoint, time.perf_counter()
            problem, sent = None, False
            try:
                sent = self._send(checkpoint)
            except FileNotFoundError:
                continue  # old enough to be removed here, so it need not be sent
            except (UserError, Failure, OSError) as error:
                problem = str(error)
            except Exception as error:  # of any kind: training goes on without a second home
                problem = f"{type(error).__name__}: {error}"
            finally:
                self._sending = None
            if sent or problem:
                seconds = time.perf_counter() - started
                self._news.put(Sent(step_of(checkpoint), checkpoint.name, self._remote.name, seconds, problem))
            if problem:
                return

    def _next(self, tried: set[str]) -> Path | None:
        for checkpoint in reversed(list_checkpoints(self._folder)):
            if step_of(checkpoint) <= self._until and checkpoint.name not in self._known | tried:
                return checkpoint
        return None

    def _send(self, checkpoint: Path) -> bool:
        """Send a checkpoint; return False if it is there already."""
        sent = False
        if not self._remote.has(checkpoint):
            if problems := verify_checkpoint(checkpoint):
                raise Failure("; ".join(problems))
            self._remote.send(checkpoint)
            sent = True
        self._known.add(checkpoint.name)
        self._remote.remove_old(self._rules, self._until)
        return sent
