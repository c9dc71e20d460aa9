"""Raw text made by others trains a model as it comes: measured, stopped, gone on with, and on two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import python, run_command, torchrun
from generated_corpus import generated_texts, write_json_lines
from small_runs import SMALL_MODEL, events, learnt
from soak import long


def command(folder: Path, tokenizer: Path, *more: str, ranks: int = 1) -> list[str]:
    start = torchrun(ranks, "-m", "train") if ranks > 1 else python("-m", "train")
    return [
        *start,
        f"data.raw.paths=['{folder}/*.jsonl']",
        f"data.raw.tokenizer={tokenizer}",
        *(*SMALL_MODEL, "batch.sequences=8", "steps=60", "run.name=run", "tracker=none", "cluster.threads=1"),
        *("optimizer.learning_rate=3e-3", "schedule.warmup_steps=5", "samples.tokens=8", *more),
    ]


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        write_json_lines(folder / f"{number}.jsonl", generated_texts(200, seed=number))
    return folder


def test_it_trains_is_measured_and_goes_on_after_a_stop(small_dataset, texts, tmp_path):
    held_out = f"data.raw.validation=['{texts}/0.jsonl']"
    run = command(texts, small_dataset / "tokenizer", held_out, "validation.every=20", "checkpoint.every=0")
    stopped = run_command([*run, "stop_after=25"], tmp_path)
    assert stopped.code == 75, stopped.err
    assert "may be seen twice or not at all" in stopped.err
    finished = run_command(run, tmp_path)
    assert finished.code == 0, finished.err
    folder = tmp_path / "runs" / "run"
    rows = learnt(folder)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert "resumed" in events(folder)
    measured = [row["validation_loss"] for row in rows if row.get("validation_loss")]
    assert len(measured) == 3 and measured[0] > measured[1] > measured[2]
    evaluated = run_command(python("-m", "train.evaluate", "source=runs/run"), tmp_path)
    assert evaluated.code == 2 and "give data=FOLDER or text=FILE" in evaluated.err
    (tmp_path / "text.txt").write_text("\n".join(generated_texts(20, seed=0)))
    evaluated = run_command(python("-m", "train.evaluate", "source=runs/run", "text=text.txt", "--json"), tmp_path)
    assert evaluated.code == 0 and json.loads(evaluated.out)["loss"] < measured[0] + 1
    inspected = run_command(python("-m", "data_pipeline.inspect", "source=runs/run"), tmp_path)
    assert inspected.code == 2 and "raw text is no dataset" in inspected.err


@long
def test_two_ranks_learn_from_shards_of_their_own_and_nothing_is_measured_without_files_for_it(
    small_dataset, texts, tmp_path
):
    finished = run_command(command(texts, small_dataset / "tokenizer", "steps=12", ranks=2), tmp_path)
    assert finished.code == 0, finished.err
    rows = learnt(tmp_path / "runs" / "run")
    assert len(rows) == 12 and not any(row.get("validation_loss") for row in rows)
    assert (tmp_path / "runs" / "run" / "report.html").exists()
