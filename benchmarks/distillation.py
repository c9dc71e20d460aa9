"""`python -m benchmarks.distillation DATASET [FOLDER] [STEPS]`: what a student of half the size gains from a teacher.

A teacher is trained for twice STEPS (450 if left out), then two students alike but for the teacher. The gap is what the
student without one lacks in bits per byte; what is told is the share of it that the other recovers. Runs lie in FOLDER
(`runs` if left out), and go on there. Ten minutes on a core, so it is no part of `make bench`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.commands import headrace

ALIKE = (
    "model=nano",
    "data.sequence_length=128",
    "batch.sequences=8",
    "schedule=wsd",
    "schedule.warmup_steps=30",
    "schedule.decay_fraction=0.4",
    "optimizer.learning_rate=0.006",
    "validation.every=0",
    "validation.sequences=null",
    "samples.every=0",
    "tracker=none",
)
STUDENT = ("model.width=80", "model.hidden_width=224")


def distillation_lines(dataset: Path, runs: Path, steps: int = 450) -> Iterator[str]:
    """Yield a line for each model, and one for the share of the gap."""
    taught = ("objective=distillation", f"objective.teacher={runs / 'teacher'}")
    measured = {}
    for name, settings in {
        "teacher": (f"steps={2 * steps}",),
        "alone": (f"steps={steps}", *STUDENT),
        "taught": (f"steps={steps}", *STUDENT, *taught),
    }.items():
        where = (f"data.path={dataset}", f"run.root={runs}", f"run.name={name}")
        headrace("train", *where, *ALIKE, *settings)
        summary = json.loads((runs / name / "summary.json").read_bytes())
        measured[name] = summary["bits_per_byte"]
        yield f"{name}: {summary['model']['parameters']:,} parameters, {measured[name]:.4f} bits per byte"
    gap, gain = measured["alone"] - measured["teacher"], measured["alone"] - measured["taught"]
    yield f"distillation recovers {gain / gap:.0%} of a gap of {gap:.4f}"


def main() -> int:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    for line in distillation_lines(Path(sys.argv[1]), folder, *map(int, sys.argv[3:4])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
