"""What becomes of a run whose processes have ended: done, to be started again, or given up.

Launchers lose the processes' exit codes on the way (torchrun ends with 1 whatever the code was), so the run's own
record decides: the last event since the start that is an end. A run is started again after a hang, a lost rank or a
failure only so often in a row without a new checkpoint; what stopped by itself with one may always go on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.foundation.errors import EXIT_HUNG, EXIT_STOPPED_EARLY
from data_pipeline.foundation.files import write_json
from train.run_files import CHECKPOINTS, LAUNCH
from train.telemetry.recorder import EVENTS

ENDS = ("finished", "preempted", "failed", "hung", "rank_lost")
CANCELLED = "cancelled"
"""File in a launch folder: somebody wants the run to stay stopped."""


@dataclass(frozen=True)
class Attempts:
    """Starts in a row that brought no new checkpoint.

    Args:
        failed: how many.
        step: of the newest checkpoint when they began.
    """

    failed: int = 0
    step: int = -1


@dataclass(frozen=True)
class Verdict:
    """What is to be done.

    Args:
        action: `done`; `stopped`, to stay so; `resume`, since it stopped with a checkpoint by itself; `restart`, after
            trouble; `failed`, for good.
        reason: for people.
        code: with which to end where nothing is started again.
    """

    action: str
    reason: str
    code: int


def events_bytes(run: Path) -> int:
    """Return how much of a run's events there is: what is recorded later lies behind."""
    try:
        return (run / EVENTS).stat().st_size
    except OSError:
        return 0


def recorded_end(run: Path, since: int) -> dict | None:
    """Return the last event behind `since` bytes that says how the run ended; None where it doesn't."""
    try:
        with open(run / EVENTS, "rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")
    except OSError:
        return None
    ends = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # torn, by a machine that was lost
            continue
        if event.get("kind") in ENDS:
            ends.append(event)
        elif event.get("kind") in ("started", "resumed"):
            ends.clear()
    return ends[-1] if ends else None


def judge(run: Path, since: int, code: int, attempts: Attempts, most: int) -> tuple[Verdict, Attempts]:
    """Say what is to be done with a run whose processes have ended.

    Args:
        since: bytes of its events that were there before they were started.
        code: that the launcher ended with.
        attempts: so far.
        most: of restarts in a row.
    """
    end = recorded_end(run, since)
    kind = end["kind"] if end else None
    reason = str(end.get("reason", "")) if end else ""
    if kind == "finished" or (kind is None and code == 0):
        return Verdict("done", "finished", 0), Attempts()
    if (run / LAUNCH / CANCELLED).exists():
        return Verdict("stopped", "it was cancelled", EXIT_STOPPED_EARLY), Attempts()
    if kind == "preempted":
        stays = reason.startswith("stop_after=")
        return Verdict("stopped" if stays else "resume", reason, EXIT_STOPPED_EARLY), Attempts()
    told = f"{kind.replace('_', ' ')}: {reason}" if kind else f"its processes ended with {code} and recorded nothing"
    step = newest_checkpoint(run)
    failed = 1 if step > attempts.step else attempts.failed + 1
    if failed > most:
        final = EXIT_HUNG if kind in ("hung", "rank_lost") else 1
        return Verdict("failed", f"{told} (for the {failed}th time without a new checkpoint)", final), attempts
    return Verdict("restart", f"{told} (restart {failed} of {most})", EXIT_HUNG), Attempts(failed, step)


def newest_checkpoint(run: Path) -> int:
    """Return the step of a run's newest published checkpoint; -1 where there is none."""
    names = [path.name.removeprefix("step-") for path in (run / CHECKPOINTS).glob("step-*")]
    return max((int(name) for name in names if name.isdigit()), default=-1)


def main(arguments: list[str]) -> int:
    """For batch scripts: `begin RUN` prints where its events end; `end RUN SINCE CODE MOST` prints what is to be done.

    Attempts are counted in a file of the run's launch folder.
    """
    command, run = arguments[0], Path(arguments[1])
    if command == "begin":
        finished = recorded_end(run, 0)
        print("done" if finished and finished["kind"] == "finished" else events_bytes(run))
        return 0
    since, code, most = map(int, arguments[2:5])
    counted = run / LAUNCH / "attempts.json"
    attempts = Attempts(**json.loads(counted.read_text())) if counted.exists() else Attempts()
    verdict, attempts = judge(run, since, code, attempts, most)
    write_json(counted, asdict(attempts))
    print(f"headrace: {verdict.action}: {verdict.reason}", file=sys.stderr)
    print(verdict.action)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
