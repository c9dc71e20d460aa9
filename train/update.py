"""The update of a step inside DeepSpeed: its gradient's norm known beforehand, then taken, or dropped.

DeepSpeed computes the norm in the middle of its optimizer's step, where it is too late to decide. Here it is computed
by DeepSpeed's own function before, and handed back to the step, so nothing is computed twice or otherwise. To drop an
update at stages 1 to 3 the step is led through DeepSpeed's own branch for overflows, which knows what has to be
cleared at each stage; fp16's loss scale stays out of it. At stage 0 an optimizer without gradients has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from train.model.split_layers import SplitLayers, is_split

EPSILON = 1e-6
"""Added to the norm before it is divided by, as in PyTorch's and DeepSpeed's clipping."""


class Update:
    """The last thing of a step.

    Args:
        engine: DeepSpeed's.
        clip_norm: that gradients are clipped to; 0 doesn't clip.
        split: over which ranks blocks are.
    """

    def __init__(self, engine: Any, stage: int, clip_norm: float, split: SplitLayers | None = None):
        self._engine, self._stage, self._clip_norm, self._split = engine, stage, clip_norm, split
        self._norm: Any = None

    def gradient_norm(self) -> Tensor:
        """Return the length of the whole step's gradient before clipping, a scalar on the device.

        Every rank calls it, after the backward pass of the step's last micro-batch. Not finite if an element isn't.
        """
        optimizer = self._engine.optimizer
        if self._stage == 0:
            self._norm = self._plain_norm()
            return self._norm
        if self._stage == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            self._norm = optimizer._get_norm_groups()
            scaled = combine_grad_norm_groups(self._norm)
        else:
            if optimizer.cpu_offload:
                optimizer._wait_for_offload_copies()
            self._norm = scaled = optimizer.scaled_global_norm()
        return torch.as_tensor(scaled / optimizer.loss_scale, device=self._engine.device)

    def take(self, norm: float) -> bool:
        """Make the update; return False where fp16 has overflowed and DeepSpeed has lowered its loss scale instead.

        Args:
            norm: what `gradient_norm` came to. Gradients that are short enough are left alone, not multiplied by 1.
        """
        optimizer, known = self._engine.optimizer, self._norm
        is_long = bool(self._clip_norm) and norm + EPSILON > self._clip_norm
        if self._stage == 0:
            with self._clipped((norm + EPSILON) / self._clip_norm) if is_long else nullcontext():
                self._engine.step()
            return True
        path: dict[str, Any] = {"_get_norm_groups" if self._stage == 3 else "scaled_global_norm": lambda: known}
        if not is_long and optimizer.loss_scale == 1.0:
            path["unscale_and_clip_grads"] = lambda *_: None
        with _replaced(optimizer, **path):
            self._engine.step()
        return not optimizer.overflow

    @contextmanager
    def _clipped(self, divisor: float) -> Iterator[None]:
        """Let stage 0's optimizer see all gradients divided; fused ones do it in the pass of their own update."""
        optimizer = self._engine.optimizer
        if not all(group.get("fused") for group in optimizer.param_groups):
            torch._foreach_mul_(self._gradients(), 1.0 / divisor)
            yield
            return
        device = self._engine.device
        scale = torch.full((), divisor, dtype=torch.float32, device=device)
        with _replaced(optimizer, grad_scale=scale, found_inf=torch.zeros((), dtype=torch.float32, device=device)):
            yield

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self._engine.module.parameters() if each.grad is not None]

    def _plain_norm(self) -> Tensor:
        """Return stage 0's norm; what is whole on all ranks that split a model counts once, as with DeepSpeed's."""
        if self._split is None:
            return get_total_norm(self._gradients())
        parameters = [each for each in self._engine.module.parameters() if each.grad is not None]
        parts = get_total_norm([each.grad for each in parameters if is_split(each)])
        torch.distributed.all_reduce(squared := parts.square(), group=self._split.group)
        return (squared + get_total_norm([each.grad for each in parameters if not is_split(each)]).square()).sqrt()

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
