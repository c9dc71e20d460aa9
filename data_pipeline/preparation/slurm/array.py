"""A job array by datatrove, and what happens in one task of it.

datatrove's executor makes the array, its tasks' ranks and their logs. It writes what it is given into a shell script as
it is, starts a second job that never runs where a task of the first fails, and describes itself, settings and all, in
a JSON file; so the script, the options and these two are ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from fsspec.implementations.local import LocalFileSystem
from loguru import logger

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.parallel import Workers
from data_pipeline.preparation.slurm.outcomes import Outcomes, Writer
from data_pipeline.preparation.slurm.queue import submission_environment
from data_pipeline.preparation.slurm.script import batch_script, log_pattern
from data_pipeline.preparation.slurm.settings import SlurmConfig

logger.disable("datatrove")  # what it says at the start of a task would hide a task's last words
LAUNCHER = "datatrove.tools.launch_pickled_pipeline"
STARTS = 3
"""A task that SLURM has started so often without getting anything done does nothing when it is started again."""

FAILURE = Failure.__name__
NumberedItem = tuple[int, Any]


def submit_array(
    name: str, folder: Path, task: Callable[[Any], None], items: Sequence[NumberedItem], config: SlurmConfig
) -> None:
    """Submit an array that calls `task(item)` for all items.

    Args:
        name: by which it can be found in SLURM's queue.
        folder: for its files, that must not be there yet.

    Raises:
        Failure: SLURM doesn't take it.
    """
    # The pickled task is read by nobody else, for its settings may hold passwords, and written by nobody else.
    folder.mkdir(parents=True, mode=0o700)
    outcomes = Outcomes(folder)
    array = Array(name, folder, DoShare(task, items, outcomes, config.cpus_per_task), config)
    outcomes.expect(array.tasks)
    try:
        with submission_environment(array_options(name, folder, len(items), config)):
            array.launch_job()
    except subprocess.CalledProcessError as error:
        raise Failure(f"SLURM hasn't taken the array job {name}; what sbatch said stands above ({error})") from None


def array_options(name: str, folder: Path, items: int, config: SlurmConfig) -> dict[str, str | None]:
    """Return all options of sbatch."""
    limit = f"%{config.at_once}" if config.at_once else ""
    ours = {
        "job-name": name,
        "array": f"0-{min(config.tasks, items) - 1}{limit}",
        "output": log_pattern(folder),
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "requeue": None,
    }
    return config.options() | ours


class Array(SlurmPipelineExecutor):
    """datatrove's executor, with a script in which values stay values."""

    def __init__(self, name: str, folder: Path, share: DoShare, config: SlurmConfig):
        self._options = array_options(name, folder, len(share.items), config)
        self._modules = config.modules
        super().__init__(
            pipeline=[share],
            tasks=min(config.tasks, len(share.items)),
            time=config.time,
            partition=config.partition,
            job_name=name,
            max_array_size=-1,
            logging_dir=(str(folder), LocalFileSystem()),
            slurm_logs_folder=str(folder),
            requeue_signals=None,
            with_srun=False,
        )

    def get_launch_file_contents(self, sbatch_args: dict, run_script: str) -> str:
        # -P: nothing in the folder in which the user happens to be is imported
        command = [sys.executable, "-P", "-m", LAUNCHER, self.logging_dir.resolve_paths("executor.pik")]
        return batch_script(self._options, self._modules, command)

    def launch_merge_stats(self) -> None:
        """Start no second job."""

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Write no settings into a file that nobody reads."""


class DoShare(PipelineStep):
    """Calls a task for every item of a rank's share: each `world_size`-th, from `rank` on."""

    name = "items of a phase"
    type = "headrace"

    def __init__(self, task: Callable[[Any], None], items: Sequence[NumberedItem], outcomes: Outcomes, processes: int):
        super().__init__()
        self.task, self.items, self.outcomes, self.processes = task, items, outcomes, processes

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Do the share. Leaves the process with the error's exit code where an item failed."""
        # `scancel` sends SIGTERM: half-written files are removed on the way out.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        writer = self.outcomes.writer(rank, int(os.environ.get("SLURM_RESTART_COUNT", 0)))
        if code := do_share(self.task, self.items[rank::world_size], writer, self.processes):
            sys.exit(code)


def do_share(task: Callable[[Any], None], items: Sequence[NumberedItem], writer: Writer, processes: int) -> int:
    """Call a task for items, and note what is done and what fails. An error of the user's ends it, others don't.

    Returns:
        an exit code.
    """
    if writer.got_nowhere(STARTS):
        writer.fail(items[0][0], FAILURE, f"SLURM has started a task {STARTS} times, and it got nothing done")
        return Failure.exit_code
    code, number = 0, items[0][0]
    with Workers(processes) as workers:
        try:
            for (number, _), failed in zip(items, workers.map(Try(task), [item for _, item in items])):
                if failed is None:
                    writer.finish(number)
                    continue
                print(f"item {number}: {failed.trace}", file=sys.stderr)
                writer.fail(number, failed.kind, failed.message)
                if failed.kind == UserError.__name__:
                    return UserError.exit_code
                code = Failure.exit_code
        except Failure:
            writer.fail(number, FAILURE, "a process died; if it was for want of memory, give more with engine.memory")
            return Failure.exit_code
    return code


@dataclass(frozen=True)
class Failed:
    """What is left of an exception where it may have to go from one process to another."""

    kind: str
    message: str
    trace: str


@dataclass(frozen=True)
class Try:
    """Calls a task, and returns how it failed, so that it doesn't keep the items behind it from being done."""

    task: Callable[[Any], None]

    def __call__(self, item: Any) -> Failed | None:
        try:
            self.task(item)
        except Exception as error:
            return Failed(type(error).__name__, str(error), traceback.format_exc())
        return None
