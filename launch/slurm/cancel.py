"""`headrace cancel RUN`: asks a submitted run's ranks to save and end, waits for it, and only then ends its job."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from rich.markup import escape

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.verb import Request, Verb

POLL_SECONDS = 1.0


@dataclass
class CancelConfig:
    """What is ended.

    Args:
        source: a run's folder, or its name in `root`.
        root: folder of runs.
        wait_seconds: for the checkpoint; after that the job is ended without.
    """

    source: str = "???"
    root: str = "runs"
    wait_seconds: float = 900.0


def run(request: Request) -> int:
    """End a run's jobs; returns 0 when they have ended."""
    from data_pipeline.foundation.progress import say
    from launch.slurm.known import require_submitted
    from launch.slurm.queue import cancel_job, job_states, signal_job
    from launch.verdict import CANCELLED, newest_checkpoint
    from train.run_files import LAUNCH

    composed = request.compose("cancel", CancelConfig)
    if composed is None:
        return 0
    folder, submitted = require_submitted(composed.value.source, composed.value.root)

    def active() -> dict[str, str]:
        return {job: state.state for job, state in job_states(submitted.jobs).items() if state.is_active}

    at_work = active()
    if not at_work:
        say(escape(f"{folder} has no job: {', '.join(submitted.jobs)} has ended"))
        return 0
    # The script looks for it before it goes back to the queue.
    (folder / LAUNCH / CANCELLED).touch()
    for job, state in reversed(at_work.items()):
        if state == "RUNNING":
            say(escape(f"{folder}: job {job} is asked to save and end"))
            # All of the step's processes, launchers among them, which pass it on.
            signal_job(job, "USR1")
        else:
            cancel_job(job)
    deadline = time.monotonic() + composed.value.wait_seconds
    while (left := active()) and time.monotonic() < deadline:
        for job, state in left.items():
            if state == "PENDING":  # went back to the queue while it was told
                cancel_job(job)
        time.sleep(POLL_SECONDS)
    for job in left:
        cancel_job(job)
    step = newest_checkpoint(folder)
    kept = f"its newest checkpoint is that of step {step:,}" if step >= 0 else "it has no checkpoint"
    if left:
        raise Failure(f"{folder} was ended by force after {composed.value.wait_seconds:.0f} s; {kept}")
    say(escape(f"{folder} has ended; {kept}. `headrace train` with the same settings goes on from there"))
    return 0


VERB = Verb(
    name="cancel",
    summary="ends a submitted run, with a checkpoint first",
    run=run,
    keys=(
        ("RUN", "a run's folder, or its name"),
        ("root", "folder of the runs"),
        ("wait_seconds", "for the checkpoint; then the job is ended without"),
    ),
    examples=("headrace cancel runs/demo", "headrace cancel demo", "headrace cancel demo wait_seconds=60"),
    positional="source",
)

if __name__ == "__main__":
    sys.exit(VERB.main())
