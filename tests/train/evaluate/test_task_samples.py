"""A task's examples become samples that are asked exactly as the task asks, and nothing else is taken for a task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.readers.samples import SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig
from train.evaluate.samples import VERB
from train.evaluate.task import load_task, run_task
from train.generation.text_model import TextModel
from train.study.chain_of_thought import WITHOUT_CLEANING

TRAINING = [{"q": f"river {number}", "kind": number % 2} for number in range(6)]
TASK = {
    "kind": "multiple_choice",
    "data": "test.jsonl",
    "prompt": "What is {{ q }}?",
    "choices": ["water", "stone"],
    "index": "{{ kind }}",
    "examples": "training.jsonl",
    "shots": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "training.jsonl").write_text("".join(json.dumps(record) + "\n" for record in TRAINING))
    (tmp_path / "test.jsonl").write_text(json.dumps({"q": "mill", "kind": 0}) + "\n")
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump(TASK))
    return tmp_path


def samples(*settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.evaluate.samples", *settings]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_sample_asks_what_the_task_asks_without_examples_before_it(folder: Path, model: TextModel):
    made = samples(f"tasks=['{folder}/streams.yaml']", f"output='{folder}/out/samples.jsonl'", "limit=4")
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in (folder / "out" / "samples.jsonl").read_text().splitlines()]
    assert lines == [
        {"prompt": f"What is river {number}?", "completion": " stone" if number % 2 else " water"}
        for number in range(4)
    ]
    (folder / "test.jsonl").write_text((folder / "training.jsonl").read_text())
    asked = run_task(load_task(str(folder / "streams.yaml")), model, limit=4, shots=0).details
    assert [each["prompt"] for each in asked] == [line["prompt"] for line in lines]


def test_as_many_examples_are_shown_as_are_asked_for(folder: Path, model: TextModel):
    task = load_task(str(folder / "streams.yaml"))
    for shots, examples in ((None, 2), (0, 0), (3, 3)):
        [detail] = run_task(task, model, shots=shots).details
        assert detail["prompt"].count("What is river") == examples


def test_samples_of_several_tasks_are_prepared_as_one_corpus(folder: Path):
    (folder / "other.yaml").write_text(yaml.safe_dump({**TASK, "prompt": "And {{ q }}:", "introduction": "Say it. "}))
    made = samples(f"tasks=['{folder}/streams.yaml','{folder}/other.yaml']", f"output='{folder}/all.jsonl'")
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines[5:7]] == ["What is river 5?", "Say it. And river 0:"]
    corpus = SamplesConfig([str(folder / "all.jsonl")])
    prepare(PrepareConfig(str(folder / "dataset"), corpus, WITHOUT_CLEANING, BpeConfig(300), validation_fraction=0.5))
    manifest = json.loads((folder / "dataset" / "manifest.json").read_text())
    assert sum(split["documents"] for split in manifest["splits"].values()) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["output=x.jsonl"], "tasks=[] names none"),
        (["tasks=[crows_pairs]", "output=x.jsonl"], "task crows_pairs has no `examples`"),
        (["tasks=[sst3]", "output=x.jsonl"], "there is no task `sst3`. Did you mean `sst2`?"),
        (["tasks=[sst2]", "output=x.txt"], "output=x.txt must be a .jsonl file"),
        (["tasks=[sst2]", "output=x.jsonl", "limit=0"], "limit=0 must be at least 1"),
        (["tasks=[sst2]", "output=x.jsonl", "task_data=nowhere"], "nowhere/sentiment/train.tsv"),
    ],
)
def test_what_makes_no_samples_is_refused_in_a_line(settings, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert VERB.main(settings) == 2
    assert message in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
