"""The folder beside a dataset in which it is made: what is planned, what is done, and who is at work.

`OUTPUT.tmp/PLAN/` holds `plan.json`, a folder per phase with the results of its tasks, a mark per finished phase, and
at last the dataset itself, which is renamed into place when it is whole. The folder outlives a kill or a failure: the
same command goes on from there. A command with another plan begins anew, in a folder of another name, so that a task on
another machine that still works on the older plan has no place to write to.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.markup import escape

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import json_hash, publish_folder, write_json
from data_pipeline.foundation.progress import say

PLAN, LOCK, DATASET = "plan.json", "lock", "dataset"


class Workplace:
    """An open workplace; made by `workplace`.

    Args:
        root: folder of the plan.
    """

    def __init__(self, root: Path):
        self.root = root

    @property
    def dataset(self) -> Path:
        """The dataset in the making."""
        return self.folder(DATASET)

    def folder(self, name: str) -> Path:
        """Return the folder of a phase's results, made if need be."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def is_done(self, phase: str) -> bool:
        return self._mark(phase).exists()

    def result(self, phase: str) -> Any:
        """Return what a finished phase left for later ones."""
        return json.loads(self._mark(phase).read_text(encoding="utf-8"))

    def finish(self, phase: str, result: Any = None) -> Any:
        """Mark a phase as finished, with a result for later ones."""
        write_json(self._mark(phase), result)
        return result

    def remove(self, name: str) -> None:
        """Delete results that no later phase needs."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _mark(self, phase: str) -> Path:
        return self.root / f"{phase}.done.json"


@contextmanager
def workplace(output: Path, plan: dict[str, Any]) -> Iterator[Workplace]:
    """Open the workplace of a dataset; what an interrupted preparation of the same plan did is kept.

    Args:
        output: folder of the dataset to be.
        plan: everything that has an influence on any phase's results.

    Raises:
        UserError: the folder can't be made, or another process is preparing the same dataset.
        Failure: the disk is full or broken.
    """
    root = output.with_name(output.name + ".tmp")
    try:
        lock = _lock(root)
    except BlockingIOError:
        raise UserError(f"output={output} is being prepared by another process: wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"output={output}: the folder can't be made: {error.strerror}") from None
    with lock:
        try:
            yield Workplace(_adopt_or_clear(root, plan))
        except UserError:
            # What the user mends is part of the plan, so nothing here could be used again.
            shutil.rmtree(root, ignore_errors=True)
            raise
        except OSError as error:
            raise Failure(
                f"{output} can't be written: {error.strerror or error}. What is done is kept in {root}: "
                "the same command goes on from there"
            ) from error


def publish(root: Workplace, output: Path) -> None:
    """Rename the finished dataset into place; an older one there goes only when the new one stands."""
    older = output.with_name(f".{output.name}.replaced")
    if output.exists():
        shutil.rmtree(older, ignore_errors=True)
        os.rename(output, older)
    publish_folder(root.dataset, output)
    shutil.rmtree(older, ignore_errors=True)
    shutil.rmtree(root.root.parent, ignore_errors=True)


def _lock(root: Path) -> IO[str]:
    """Return the locked file, which stays locked until it is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: another process has it.
    """
    while True:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / LOCK, "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(root / LOCK)):
                return file
        except FileNotFoundError:
            pass  # the other process has just finished, and its folder is gone
        except BaseException:
            file.close()
            raise
        file.close()


def _adopt_or_clear(root: Path, plan: dict[str, Any]) -> Path:
    """Return the folder of a plan, with what an earlier try left there; those of other plans go."""
    own = root / json_hash(plan)[:16]
    if (own / PLAN).exists():
        done = len(list(own.glob("*.done.json")))
        say(escape(f"going on with what an earlier try left in {root} ({done} phases done)"))
        return own
    for leftover in root.iterdir():
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover.name != LOCK:
            leftover.unlink()
    own.mkdir(exist_ok=True)
    write_json(own / PLAN, plan)
    return own
