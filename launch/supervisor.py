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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.markup import escape

from data_pipeline.foundation.errors import EXIT_STOPPED_EARLY, Failure, UserError
from data_pipeline.foundation.progress import say
from launch.verdict import Attempts, events_bytes, judge, recorded_end

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
"""Before a restart; twice as long with each in a row, so that other machines have time to notice."""
SHUTDOWN_SECONDS = 600
"""So long ranks that were asked to stop may take to end their step and save."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Supervisor:
    """One launcher on this machine, started as often as it takes.

    Args:
        command: of the launcher.
        environment: variables to set for it.
        run: folder of the run that its processes train.
        restarts: in a row without a new checkpoint, at most.
        launcher_saves: whether the launcher itself waits for its processes when it is told to end.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        run: Path,
        restarts: int,
        launcher_saves: bool = True,
    ):
        self._command, self._run, self._restarts = list(command), run, restarts
        self._environment = {**os.environ, **environment}
        self._launcher_saves = launcher_saves
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
                if self._asked and not self._launcher_saves:
                    self._wait_for_record(since)
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
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if again:
                    self._kill()
                elif len(self._asked) == 1:
                    self._process.send_signal(number if self._launcher_saves else signal.SIGTERM)

    def _kill(self) -> None:
        """End the launcher and all its processes at once; published checkpoints stay good."""
        import psutil

        assert self._process is not None
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        self._process.kill()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._asked:
            time.sleep(0.1)

    def _wait_for_record(self, since: int) -> None:
        """Give processes on other machines, whose launcher has left them, the time to save."""
        until = time.monotonic() + SHUTDOWN_SECONDS
        while recorded_end(self._run, since) is None and time.monotonic() < until:
            time.sleep(0.2)
