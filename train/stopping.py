"""Being asked to stop: a signal sets a flag, the step ends, all ranks agree, a checkpoint is written."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from data_pipeline.foundation.errors import EXIT_STOPPED_EARLY

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "CROSS_RANK")
"""Variables of torchrun, SLURM and deepspeed."""


class StopRequests:
    """Catches the signals by which people and schedulers ask for an end. A second one ends the process at once.

    Not so, but for a second Ctrl-C, under a launcher: a scheduler tells every process, and the launcher passes on what
    it is told. `reason` names the first signal, or is None.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._earlier: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequests:
        for number in SIGNALS:
            self._earlier[number] = signal.signal(number, self._caught)
        return self

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            if number == signal.SIGINT or not any(name in os.environ for name in LAUNCHED):
                # Published checkpoints stay good whenever the process ends.
                os._exit(EXIT_STOPPED_EARLY)
            return
        self.reason = signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
