"""The parts of a step, each with the time that is its own: what runs inside another part is taken off that one.

Knows DeepSpeed's and PyTorch's objects from outside: methods are wrapped while somebody measures, and a run that nobody
measures pays nothing. A GPU is waited for at each border, without which its work would be found where somebody waits
for it at last; the sum is then a little more than a step takes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import distributed
from torch.profiler import record_function

PARTS = ("data", "forward", "backward", "communication", "optimizer", "logging", "checkpoint", "other")
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "reduce",
    "reduce_scatter_tensor",
)


class Parts:
    """Adds up the seconds of each part, from `begin` to `end`; what is in none of them is `other`.

    Args:
        named: the parts are named in a profiler's trace, as `part forward`; a GPU is then not waited for.
    """

    def __init__(self, device: torch.device, named: bool = False):
        self._named = named
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._inside = ["other"]
        self._since = 0.0
        self._undo: list[Callable[[], None]] = []

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        self._add_up()
        self._inside.append(part)
        try:
            with record_function(f"part {part}") if self._named else nullcontext():
                yield
        finally:
            self._add_up()
            self._inside.pop()

    def begin(self) -> None:
        """Begin to measure."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._wait()
        self._since = time.perf_counter()

    def end(self) -> dict[str, float]:
        """Return the seconds of each part since the beginning."""
        self._add_up()
        return self.seconds

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count what a method of an object, or a function of a module, takes as a part, until `unwrap`."""
        called, own = getattr(owner, name), vars(owner).get(name)

        @functools.wraps(called)
        def measured(*arguments: Any, **named: Any) -> Any:
            with self.measuring(part):
                return called(*arguments, **named)

        setattr(owner, name, measured)
        self._undo.append(lambda: delattr(owner, name) if own is None else setattr(owner, name, own))

    def wrap_collectives(self) -> None:
        """Count what is sent between processes as communication, and the waiting for it.

        What PyTorch's own DistributedDataParallel sends can't be seen from here and stays within the backward pass.
        """
        for name in COLLECTIVES:
            self.wrap(distributed, name, "communication")
        self.wrap(distributed.Work, "wait", "communication")

    def unwrap(self) -> None:
        """Leave everything as it was."""
        while self._undo:
            self._undo.pop()()

    def _add_up(self) -> None:
        self._wait()
        now = time.perf_counter()
        self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def _wait(self) -> None:
        if self._device.type == "cuda" and not self._named:
            torch.cuda.synchronize(self._device)


def wrap_trainer(parts: Parts, trainer: Any) -> None:
    """Count the parts of a trainer's steps."""
    engine = trainer.engine
    parts.wrap(trainer.stream, "next", "data")
    parts.wrap(trainer.objective, "summed_loss", "forward")
    parts.wrap(engine.deepspeed, "backward", "backward")
    for name in ("gradient_norm", "take", "drop"):
        parts.wrap(engine.update, name, "optimizer")
    parts.wrap(trainer.record, "row", "logging")
    for name in ("save", "_go_on_saving"):
        parts.wrap(trainer, name, "checkpoint")
    parts.wrap_collectives()
