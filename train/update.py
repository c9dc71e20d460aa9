"""The update of a step inside DeepSpeed: its gradient's norm known beforehand, then taken, or dropped.

DeepSpeed computes the norm in the middle of its optimizer's step, where it is too late to decide. Here it is computed
by DeepSpeed's own function before, and handed back to the step, so nothing is computed twice or otherwise. To drop an
update at stages 1 to 3 the step is led through DeepSpeed's own branch for overflows, which knows what has to be
cleared at each stage; fp16's loss scale stays out of it. At stage 0 an optimizer without gradients has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Update:
    """The last thing of a step.

    Args:
        engine: DeepSpeed's.
        clip_norm: that gradients are clipped to at stage 0; 0 doesn't clip. At other stages DeepSpeed does it.
    """

    def __init__(self, engine: Any, stage: int, clip_norm: float):
        self._engine, self._stage, self._clip_norm = engine, stage, clip_norm
        self._norm: Any = None

    def gradient_norm(self) -> float:
        """Return the length of the whole step's gradient before clipping; at stage 0, clip it.

        Every rank calls it, after the backward pass of the step's last micro-batch. Not finite if an element isn't.
        """
        optimizer = self._engine.optimizer
        if self._stage == 0:
            limit = self._clip_norm or float("inf")
            return float(torch.nn.utils.clip_grad_norm_(self._engine.module.parameters(), limit))
        if self._stage == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            self._norm = optimizer._get_norm_groups()
            scaled = combine_grad_norm_groups(self._norm)
        else:
            if optimizer.cpu_offload:
                optimizer._wait_for_offload_copies()
            self._norm = scaled = optimizer.scaled_global_norm()
        return float(scaled / optimizer.loss_scale)

    def take(self) -> bool:
        """Make the update; return False where fp16 has overflowed and DeepSpeed has lowered its loss scale instead."""
        optimizer, norm = self._engine.optimizer, self._norm
        if self._stage == 0:
            self._engine.step()
            return True
        name = "_get_norm_groups" if self._stage == 3 else "scaled_global_norm"
        with _replaced(optimizer, **{name: lambda: norm}):
            self._engine.step()
        return not optimizer.overflow

    def drop(self) -> None:
        """Go on to the next step without an update: weights, moments and loss scale stay, gradients go."""
        engine, optimizer = self._engine, self._engine.optimizer
        if self._stage == 0:
            engine.zero_grad()
            engine.step()
            engine.skipped_steps += 1
            return
        infinite = torch.full((), float("inf"), device=engine.device)

        def overflow(**_: bool) -> None:
            optimizer.overflow = True

        path: dict[str, Any] = {"_get_norm_groups": lambda: [infinite]}
        if self._stage != 3:
            path = {"check_grad_overflow": True, "check_overflow": overflow}
        with _replaced(optimizer, _update_scale=lambda *_: None, **path):
            engine.step()
        assert optimizer.overflow, "DeepSpeed has made an update that was to be dropped"


@contextmanager
def _replaced(thing: Any, **attributes: Any) -> Iterator[None]:
    """Give one object other attributes for a while."""
    own = {name: vars(thing)[name] for name in attributes if name in vars(thing)}
    vars(thing).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            if name in own:
                vars(thing)[name] = own[name]
            else:
                del vars(thing)[name]
