"""Whole commands on a model that trains in seconds, and what is to be said of their results."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from commands import Finished, python, read_rows, torchrun

STEPS = 40
SMALL_MODEL = (
    "model=nano",
    "model.width=64",
    "model.heads=4",
    "model.key_value_heads=2",
    "model.hidden_width=96",
    "data.sequence_length=32",
)
SETTINGS = (
    *SMALL_MODEL,
    f"steps={STEPS}",
    "batch.sequences=8",
    "batch.micro=2",
    "schedule.warmup_steps=5",
    "checkpoint.every=2",
    "checkpoint.keep=0",
    "validation.every=15",
    "validation.sequences=5",
    "samples.tokens=8",
    "tracker=none",
    "cluster.threads=1",
)
MEASURED = ("step", "tokens", "loss", "learning_rate", "grad_norm", "validation_loss", "validation_bits_per_byte")


def train_command(dataset: Path, *more: str, ranks: int = 1, name: str = "run") -> list[str]:
    """Return the command that trains in `runs/NAME` of the folder it is run in."""
    arguments = (f"data.path={dataset}", f"run.name={name}", *SETTINGS, *more)
    if ranks > 1:
        return torchrun(ranks, "-m", "train", *arguments)
    return python("-m", "launch.command", "train", *arguments)


def learnt(run: Path) -> list[dict[str, Any]]:
    """Return what a run's rows say about learning, and nothing about time."""
    return [{key: row.get(key) for key in MEASURED} for row in read_rows(run / "metrics.jsonl")]


def samples(run: Path) -> list[tuple[int, str, str]]:
    return [(row["step"], row["prompt"], row["text"]) for row in read_rows(run / "samples.jsonl")]


def events(run: Path) -> list[str]:
    return [row["kind"] for row in read_rows(run / "events.jsonl")]


def final_state(run: Path) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def copied(run: Path, folder: Path, until: int) -> Path:
    """Copy a run into `folder/runs/run`, as it was when the checkpoint of that step was its newest."""
    copy = Path(shutil.copytree(run, folder / "runs" / "run"))
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > until:
            shutil.rmtree(checkpoint)
    return copy


def rows_done(run: Path) -> int:
    rows = read_rows(run / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def assert_same_result(run: Path, reference: Path) -> None:
    """Every loss, sample and bit of the final state is that of the run that nothing disturbed."""
    assert learnt(run) == learnt(reference)
    assert [row["step"] for row in learnt(run)] == list(range(1, STEPS + 1))
    assert samples(run) == samples(reference)
    state = final_state(run)
    assert state and state == final_state(reference)


def assert_one_line(finished: Finished, code: int) -> str:
    """One line for a person, no traceback; return the line."""
    assert finished.code == code, finished.err
    assert "Traceback" not in finished.err
    assert len(finished.headrace_lines) == 1, finished.err
    return finished.headrace_lines[0]


def the_line(error: str) -> str:
    """Return the one line for a person in what a command said."""
    [line] = [line for line in error.splitlines() if line.startswith("headrace")]
    assert "Traceback" not in error
    return line
