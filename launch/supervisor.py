"""Starts a launcher, passes signals on to it, and starts it again while the run gets further.

torchrun and deepspeed see that a process of theirs ends, but not that another machine is gone, and what they start
again they do whatever happened. So they start once, ranks watch each other and end with a record of why (`watchdog`),
and this decides by the record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.markup import escape

from data_pipeline.foundation.errors import EXIT_STOPPED_EARLY, Failure, UserError
from data_pipeline.foundation.progress import say
from launch.verdict import Attempts, events_bytes, judge, recorded_end

if TYPE_CHECKING:
    from psutil import Process

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
"""Before a restart; twice as long with each in a row, so that other machines have time to notice."""
SHUTDOWN_SECONDS = 600
"""So long ranks that were asked to stop may take to end their step and save."""
RECORD_SECONDS = 10.0
"""So much later another machine's record may be seen here."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Supervisor:
    """One launcher on this machine, started as often as it takes.

    Args:
        command: of the launcher.
        environment: variables to set for it.
        run: folder of the run that its processes train.
        restarts: in a row without a new checkpoint, at most.
        told: which of its children are told to end, where the launcher itself would leave them alone.
        leaves_ranks: whether the launcher, when it is told to end, doesn't wait for the ranks to save.
        elsewhere: whether rank 0, which records the end, may be on another machine.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        run: Path,
        restarts: int,
        told: Callable[[Process], bool] | None = None,
        leaves_ranks: bool = False,
        elsewhere: bool = False,
    ):
        self._command, self._run, self._restarts = list(command), run, restarts
        self._environment = {**os.environ, **environment}
        self._told, self._leaves_ranks, self._elsewhere = told, leaves_ranks, elsewhere
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: list[int] = []

    def run(self) -> int:
        """Run to the end of training, or to where somebody asks for one; return the exit code.

        Raises:
            Failure: the launcher can't be started, or the run has failed too often without getting further.
        """
        attempts, pause = Attempts(), FIRST_PAUSE_SECONDS
        earlier = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        try:
            while True:
                since = events_bytes(self._run)
                code = self._start()
                if self._asked and self._leaves_ranks:
                    self._wait_for_record(since, SHUTDOWN_SECONDS)
                elif code and self._elsewhere:
                    self._wait_for_record(since, RECORD_SECONDS)
                verdict, attempts = judge(self._run, since, code, attempts, self._restarts)
                if verdict.action == "done":
                    return 0
                if self._asked or verdict.action in ("resume", "stopped"):
                    return EXIT_STOPPED_EARLY if verdict.action in ("resume", "stopped") else 128 + self._asked[0]
                if verdict.action == "failed":
                    if verdict.code == 1:
                        raise Failure(f"{self._run} is given up: {verdict.reason}")
                    say(escape(f"{self._run} is given up: {verdict.reason}"))
                    return verdict.code
                pause = FIRST_PAUSE_SECONDS if attempts.failed == 1 else min(2 * pause, LONGEST_PAUSE_SECONDS)
                say(escape(f"{verdict.reason}; starting again in {pause:.0f} s"))
                self._sleep(pause)
                if self._asked:
                    return EXIT_STOPPED_EARLY
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _start(self) -> int:
        try:
            # In a session of its own: Ctrl-C reaches it once, through us.
            self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)
        except OSError as error:
            raise UserError(f"{self._command[0]} can't be started: {error.strerror}") from None
        return self._process.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and signal.SIGINT in self._asked
        self._asked.append(number)
        if self._process is None or self._process.poll() is not None:
            return
        if again:
            # At once; published checkpoints stay good.
            for child in self._children():
                _signal(child.pid, signal.SIGKILL)
            _signal(self._process.pid, signal.SIGKILL)
        elif len(self._asked) == 1 and self._told is not None:
            for child in filter(self._told, self._children()):
                _signal(child.pid, number)
        elif len(self._asked) == 1:
            _signal(self._process.pid, signal.SIGTERM if self._leaves_ranks else number)

    def _children(self) -> list[Process]:
        import psutil

        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._asked:
            time.sleep(0.1)

    def _wait_for_record(self, since: int, seconds: float) -> None:
        """Give processes on other machines the time to say how they ended."""
        until = time.monotonic() + seconds
        while recorded_end(self._run, since) is None and time.monotonic() < until:
            time.sleep(0.2)


def is_rank(process: Process) -> bool:
    """Tell whether a process was started as a rank."""
    import psutil

    try:
        return "RANK" in process.environ()
    except psutil.Error:
        return False


def is_srun(process: Process) -> bool:
    """Tell whether a process is SLURM's `srun`, which passes signals on to its tasks."""
    import psutil

    try:
        return process.name() == "srun"
    except psutil.Error:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
