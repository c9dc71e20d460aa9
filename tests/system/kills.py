"""Plans of kills, and what is to be said of a run that has been through them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import clean_environment, kill_all, read_rows
from forked_trainings import Kill
from small_runs import SETTINGS, STEPS

SERVER = Path(__file__).with_name("forked_trainings.py")
Consumed = dict[int, dict[int, str]]
"""By step: the hash of each sequence that was learnt from, by its number."""


class Trainings:
    """Runs the command `train` in forks of one process, one training after another."""

    def __init__(self, dataset: Path, folder: Path):
        self._dataset, self._log = dataset, folder / "trainings.txt"
        with open(self._log, "w") as log:
            self._server = subprocess.Popen(
                [sys.executable, str(SERVER)],
                cwd=folder,
                env=clean_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._attempts: Counter[Path] = Counter()
        first = (f"data.path={dataset}", *SETTINGS, "run.name=first", "zero=1", "stop_after=2")
        assert self._ask(self._job(folder, first, 1, None, {})) == "ready\n"

    def train(
        self, folder: Path, *more: str, ranks: int = 1, kill: dict[str, Any] | None = None, **environment: str
    ) -> list[int]:
        """Train in `runs/run` of a folder; return each rank's exit code, negative for a signal."""
        arguments = (f"data.path={self._dataset}", "run.name=run", *SETTINGS, "checkpoint.keep=2", *more)
        return self.typed(folder, *arguments, ranks=ranks, kill=kill, **environment)

    def typed(
        self, folder: Path, *arguments: str, ranks: int = 1, kill: dict[str, Any] | None = None, **environment: str
    ) -> list[int]:
        """Run in a folder what is typed after `train`; return each rank's exit code, negative for a signal."""
        folder.mkdir(exist_ok=True)
        return json.loads(self._ask(self._job(folder, arguments, ranks, kill, environment)))

    def _job(
        self,
        folder: Path,
        arguments: Sequence[str],
        ranks: int,
        kill: dict[str, Any] | None,
        environment: dict[str, str],
    ) -> dict[str, Any]:
        self._attempts[folder] += 1
        common = {"folder": str(folder), "attempt": self._attempts[folder], "environment": environment}
        return {**common, "arguments": list(arguments), "ranks": ranks, "kill": kill}

    def _ask(self, job: dict[str, Any]) -> str:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, self._log.read_text()
        return answer

    def close(self) -> None:
        kill_all(self._server)


def draw_kill(draw: random.Random, number: int, ranks: int) -> dict[str, Any]:
    """Return the plan of a kill: two of three inside a save, the points of its publication in turn."""
    inside = Kill.POINTS[1:]
    point = inside[number * 2 // 3 % len(inside)] if number % 3 else "step"
    return {
        "point": point,
        "count": draw.randint(1, 6) if point == "step" else draw.randint(1, 2),
        "delay": draw.choice((0, draw.uniform(0, 0.003), draw.uniform(0, 0.03))) if point in ("step", "state") else 0,
        "victim": draw.choice(("all", *range(ranks))),
        "suspend": ranks > 1 and draw.random() < 0.5,
    }


def said(folder: Path) -> str:
    """Return what all attempts at a run have printed."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("output-*.txt")))


def attempts(folder: Path) -> list[list[Consumed]]:
    """Return what each attempt at a run has consumed, rank by rank."""
    found: dict[str, list[Consumed]] = {}
    for path in sorted(folder.glob("consumed-*.jsonl")):
        steps = {row["step"]: {number: content for number, content in row["sequences"]} for row in read_rows(path)}
        found.setdefault(path.name.split("-")[1], []).append(steps)
    return list(found.values())


def consumed_by_all(ranks: list[Consumed], step: int) -> dict[int, str]:
    """Return a step's sequences over all ranks, none of which two of them may have."""
    together: dict[int, str] = {}
    for steps in ranks:
        assert not together.keys() & steps.get(step, {}).keys(), f"step {step}: two ranks learnt from one sequence"
        together |= steps.get(step, {})
    return together


def assert_each_sequence_once(folder: Path, reference: Path) -> None:
    """Every step learnt from exactly the sequences that it learns from in a run that nothing disturbed.

    Those are, over all steps, the sequences 0, 1, 2 … without a gap.
    """
    [undisturbed] = attempts(reference)
    expected = {step: consumed_by_all(undisturbed, step) for step in range(1, STEPS + 1)}
    numbers = [number for step in expected.values() for number in sorted(step)]
    assert numbers == list(range(len(numbers))) and len(numbers) == 8 * STEPS
    reached, learnt_last = 0, {}
    for number, ranks in enumerate(attempts(folder)):
        first = min((step for steps in ranks for step in steps), default=reached + 1)
        assert first <= reached + 1, f"attempt {number} left out steps {reached + 1} to {first - 1}"
        for step in sorted({step for steps in ranks for step in steps}):
            together = consumed_by_all(ranks, step)
            assert together.items() <= expected[step].items(), f"attempt {number}, step {step}: other sequences"
            learnt_last[step] = together
            reached = max(reached, step) if together == expected[step] else reached
    assert learnt_last == expected
