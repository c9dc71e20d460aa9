"""Which checkpoints stay: the newest, every n-th, the best; and never without a good one among them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.folder import TRAINER, list_checkpoints, remove_checkpoint, step_of, verify_checkpoint


@dataclass(frozen=True)
class Retention:
    """Rules for what stays; a checkpoint stays if one of them says so.

    Args:
        newest: so many of the newest; 0 is all.
        every: those whose step is a multiple; 0 is none.
        best: so many with the lowest validation loss, of those that have one.
    """

    newest: int
    every: int = 0
    best: int = 0

    def kept(self, steps: Sequence[int], losses: Mapping[int, float | None]) -> set[int]:
        """Return which of some steps, in ascending order, stay. Of equal losses the earlier step's is the better."""
        measured = sorted((loss, step) for step in steps if (loss := losses.get(step)) is not None)
        stay = set(steps[-self.newest :]) | {step for _, step in measured[: self.best]}
        return stay | {step for step in steps if self.every and step % self.every == 0}


def remove_old(folder: Path, rules: Retention, written: Path, in_use: Collection[Path] = ()) -> list[Path]:
    """Remove the checkpoints of a run that no rule keeps; return the removed.

    Later checkpoints than the one just written are none of its history: this run has found them damaged. They don't
    count, so that they can't push out a good one, and they stay until it has got there. And the newest that verifies
    stays whatever the rules say.

    Args:
        written: a moment ago, by this run, hashed on its way to the disk. Its files' sizes are looked at again; where
            no other would stay, all of it is read back from the disk first.
        in_use: checkpoints that something is reading.
    """
    checkpoints = [path for path in list_checkpoints(folder) if step_of(path) <= step_of(written)]
    losses = {step_of(path): validation_loss(path) for path in checkpoints} if rules.best else {}
    stay = rules.kept([step_of(path) for path in checkpoints], losses)
    doomed = [path for path in checkpoints if step_of(path) not in stay and path not in in_use]
    if not doomed:
        return []
    others_stay = len(doomed) < len(checkpoints) - 1
    if not others_stay:
        _forget_in_memory(written)
    contents = {path: path != written or not others_stay for path in checkpoints}
    good = next((path for path in reversed(checkpoints) if not verify_checkpoint(path, contents=contents[path])), None)
    if good is None:
        return []
    removed = [path for path in doomed if path != good]
    for path in removed:
        remove_checkpoint(path)
    return removed


def _forget_in_memory(checkpoint: Path) -> None:
    """Have the next reading of a checkpoint come from the disk, as far as the system does so."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def validation_loss(checkpoint: Path) -> float | None:
    """Return the validation loss at the step of a checkpoint, None if it was not measured or can't be read."""
    try:
        return loss_in((checkpoint / TRAINER).read_bytes())
    except OSError:
        return None


def loss_in(trainer: bytes) -> float | None:
    """Return the validation loss in the content of a `trainer.json`, None if there is none."""
    try:
        loss = json.loads(trainer)["validation_loss"]
    except (ValueError, KeyError, TypeError):
        return None
    return loss if isinstance(loss, int | float) and math.isfinite(loss) else None
