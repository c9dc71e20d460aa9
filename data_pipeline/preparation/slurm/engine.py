"""The engine of SLURM clusters: a job array for every phase, waited for, and another one for what it leaves undone.

The driver, as we call the process that waits, can be killed at any instant. Started again, it finds by its name the
array that it left at work, and goes on waiting for it; arrays with other settings are cancelled.

    OUTPUT.tmp/PLAN/slurm/PHASE-KEY/1/   the first array of a phase: script, logs, outcomes of its tasks
    OUTPUT.tmp/PLAN/slurm/PHASE-KEY/2/   the second, for the items that the first has left
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rich.markup import escape

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import text_hash
from data_pipeline.foundation.progress import Task, say
from data_pipeline.preparation.slurm import queue
from data_pipeline.preparation.slurm.phase import Array, Phase
from data_pipeline.preparation.slurm.script import batch_script
from data_pipeline.preparation.slurm.settings import SlurmConfig

Item = TypeVar("Item")
Answer = TypeVar("Answer")
SHORTEST_WAIT, LONGEST_WAIT, WAITED_SHARE = 0.3, 15.0, 0.05
"""Seconds between two looks at an array, and the share of the time already waited for it that they may be."""
SILENCE_SECONDS = 1800.0
"""After so long without an answer of SLURM's the driver gives up."""
VISIBLE_SECONDS = 90.0
"""After so long what was written on another machine is visible here, whatever a network file system caches."""
CANCEL_SECONDS = 60.0
"""So long cancelled tasks may take to end."""


def check_slurm(config: SlurmConfig) -> None:
    """Refuse settings with which no job could be submitted.

    Raises:
        UserError: an unusable setting, no SLURM here, or one that refuses such jobs.
        Failure: SLURM can't be asked.
    """
    config.check()
    try:
        from data_pipeline.preparation.slurm import array  # noqa: F401
    except ImportError as error:
        raise UserError(f"engine=slurm needs datatrove: pip install 'headrace[slurm]' ({error})") from None
    options = config.options() | {"array": f"0-{config.tasks - 1}"}
    queue.check_script(batch_script(options, config.modules, ["true"]), options)


class SlurmEngine:
    """Job arrays on a SLURM cluster.

    Args:
        config: settings that `check_slurm` has accepted.
        folder: for the arrays' files, on a file system that all nodes see.
        purpose: what the arrays are for, such as a path. Those that an earlier driver has left at work for the same,
            but with another folder or configuration, are cancelled.

    Raises:
        Failure: SLURM can't write logs into such a folder, or doesn't answer.
    """

    def __init__(self, config: SlurmConfig, folder: Path, purpose: str):
        if "\\" in str(folder) or not str(folder).isprintable():
            raise Failure(f"SLURM can't write logs into {str(folder)!r}: a folder without backslashes is needed")
        self._config, self._folder = config, folder
        same_purpose = f"headrace-{_short_hash(purpose)}"
        self._prefix = f"{same_purpose}-{_short_hash(repr((folder, config)))}"
        for name in sorted(_answered(partial(queue.active_arrays, same_purpose))):
            if not name.startswith(self._prefix):
                say(f"cancelling the array job {name}, which an earlier try with other settings has left at work")
                _answered(partial(queue.cancel_array, name))

    def run(
        self, name: str, task: Callable[[Item], None], items: Sequence[Item], amounts: Sequence[int] | None = None
    ) -> None:
        """Do a phase, as `Engine` says.

        Raises:
            UserError: as a task raised it.
            Failure: arrays have failed several times without getting any further, or SLURM doesn't answer.
        """
        work = _short_hash(repr((task, list(items))))
        folder = self._folder / f"{re.sub('[^a-z0-9]+', '-', name)}-{work}"
        phase = Phase(name, task, items, amounts or [1] * len(items), folder)
        with Task(name, sum(phase.amounts), "MB" if amounts else "parts") as progress, _sigterm_interrupts():
            self._do(phase, f"{self._prefix}-{work}", progress)

    def _do(self, phase: Phase, prefix: str, progress: Task) -> None:
        """Do what is left of a phase, by one array after the other."""
        left = phase.left()
        progress.skip(phase.done(left))
        fruitless = 0
        while left:
            running = self._running(phase, prefix)
            array = running or phase.array(phase.arrays() + 1, prefix)
            try:
                if running is None:
                    self._submit(array, phase, left)
                tasks = self._wait(array, phase, progress)
            except (UserError, KeyboardInterrupt) as error:
                # Who made a mistake mends it and begins anew: nothing may write into the folder by then.
                self._cancel(array, CANCEL_SECONDS if isinstance(error, UserError) else 0.0)
                raise
            if any(task.is_stuck for task in tasks):
                self._cancel(array)
            before, left = left, phase.left()
            fruitless = fruitless + 1 if len(left) == len(before) else 0
            if left:
                trouble = array.trouble(tasks)
                if fruitless >= self._config.retries:
                    raise trouble
                say(escape(f"{phase.name}: {len(left)} of {len(phase.items)} parts are tried again: {trouble}"))

    def _running(self, phase: Phase, prefix: str) -> Array | None:
        """Return the array that an earlier driver has left at work."""
        array = phase.array(phase.arrays(), prefix)
        if array.name not in _answered(partial(queue.active_arrays, array.name)):
            return None
        say(f"{phase.name}: going on with the array job that an earlier try has left at work")
        return array

    def _submit(self, array: Array, phase: Phase, left: Sequence[int]) -> None:
        from data_pipeline.preparation.slurm.array import submit_array

        items = [(number, phase.items[number]) for number in left]
        submit_array(array.name, array.folder, phase.task, items, self._config)

    def _wait(self, array: Array, phase: Phase, progress: Task) -> list[queue.ArrayTask]:
        """Wait until an array has ended or its phase has nothing left to do; return what became of its tasks.

        Raises:
            UserError: as a task raised it.
            Failure: SLURM has been silent for long.
        """
        started = heard = time.monotonic()
        ended: float | None = None
        told = ""
        while True:
            now, tasks = time.monotonic(), None
            try:
                tasks, heard = queue.array_tasks(array.name), now
                state = queue.waiting(tasks)
            except queue.NoAnswer as silence:
                if now - heard > SILENCE_SECONDS:
                    raise _unreachable(silence) from None
                state = f"SLURM doesn't answer: {silence}"
            left = phase.left()
            progress.advance(phase.done(left) - progress.done)
            if not left:
                return []
            array.raise_mistake()
            if tasks is not None and all(task.has_ended for task in tasks):
                ended = ended or now
                if {task.state for task in tasks} != {"COMPLETED"} or now - ended > VISIBLE_SECONDS:
                    return tasks
            if state and state != told:
                say(escape(f"{phase.name}: {state}"))
                told = state
            time.sleep(min(LONGEST_WAIT, max(SHORTEST_WAIT, WAITED_SHARE * (now - started))))

    def _cancel(self, array: Array, seconds: float = 0.0) -> None:
        """Cancel an array, and wait until its tasks have ended, at most so long."""
        deadline = time.monotonic() + seconds
        try:
            queue.cancel_array(array.name)
            while time.monotonic() < deadline and array.name in queue.active_arrays(array.name):
                time.sleep(SHORTEST_WAIT)
        except queue.NoAnswer as silence:
            say(escape(f"the array job could not be cancelled ({silence}): scancel --name={array.name}"))


def _answered(ask: Callable[[], Answer]) -> Answer:
    """Return SLURM's answer, for which it may take as long as for a restart of its controller. Raises Failure."""
    deadline = time.monotonic() + SILENCE_SECONDS
    while True:
        try:
            return ask()
        except queue.NoAnswer as silence:
            if time.monotonic() > deadline:
                raise _unreachable(silence) from None
            time.sleep(LONGEST_WAIT)


def _unreachable(silence: queue.NoAnswer) -> Failure:
    return Failure(
        f"SLURM has not answered for {SILENCE_SECONDS / 60:.0f} minutes ({silence}). What it was given goes on, and "
        "the same command waits for it"
    )


def _short_hash(text: str) -> str:
    return text_hash(text)[:8]


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM do what Ctrl-C does, so that an array is cancelled by whatever asks the driver to end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
