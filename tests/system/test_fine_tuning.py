"""Tuning on samples: only answers are learnt, each sample alone, from the weights of another run."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import Finished, python, read_rows, run_command
from small_runs import SMALL_MODEL, final_state, learnt

from data_pipeline.dataset import DataConfig, open_dataset
from data_pipeline.store import Store
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.source import load_source

PROMPTS, STEPS = 400, 40
MODEL = tuple(setting for setting in SMALL_MODEL if setting.startswith("model"))
TUNING = (
    "data.sequence_length=48",
    "objective=sft",
    "data.packing=best_fit",
    f"steps={STEPS}",
    "batch.sequences=8",
    "batch.micro=4",
    "schedule.warmup_steps=5",
    "checkpoint.every=10",
    "validation.every=20",
    "samples.tokens=4",
    "tracker=none",
    "cluster.threads=1",
)


@dataclass(frozen=True)
class Tuned:
    folder: Path

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    def train(self, name: str, *more: str, model: tuple[str, ...] = MODEL) -> Finished:
        arguments = ("data.path=dataset", f"run.name={name}", *TUNING, *model, *more)
        return run_command(python("-m", "launch.command", "train", *arguments), self.folder)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Tuned:
    folder, draw = tmp_path_factory.mktemp("tuned"), random.Random(3)
    numbers = [(draw.randrange(50), draw.randrange(50)) for _ in range(PROMPTS)]
    records = [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a, b in numbers]
    (folder / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    settings = ("corpus.paths=[samples.jsonl]", "tokenizer.vocabulary_size=280", "output=dataset")
    command = python("-m", "data_pipeline.prepare", "corpus=samples", *settings, "validation_fraction=0.1", "workers=1")
    finished = run_command(command, folder)
    assert finished.code == 0, finished.err
    tuned = Tuned(folder)
    assert tuned.train("whole").code == 0
    return tuned


def test_the_loss_is_the_mean_over_the_answers_of_samples_seen_alone(tuned):
    run = tuned.folder / "runs" / "whole"
    loaded = load_source(run)
    tokenizer = load_tokenizer(tuned.dataset / "tokenizer")
    total = count = 0.0
    for sample in held_out(tuned):
        question, answer = sample.split("=")
        prompt = tokenizer.encode(question + "=")
        tokens = torch.tensor([[*prompt, *tokenizer.encode(answer), tokenizer.end_of_document]])
        with torch.no_grad():
            scores = loaded.model(tokens)[0].log_softmax(-1)
        targets = tokens[0, len(prompt) :]
        total -= float(scores[len(prompt) - 1 : -1].gather(1, targets[:, None]).sum())
        count += len(targets)
    measured = read_rows(run / "metrics.jsonl")[-1]["validation_loss"]
    assert measured == pytest.approx(total / count, abs=1e-5)


def held_out(tuned: Tuned) -> list[str]:
    dataset = open_dataset(DataConfig(str(tuned.dataset)))
    store, tokenizer = Store(dataset.files, dataset.manifest, "validation"), load_tokenizer(tuned.dataset / "tokenizer")
    return [tokenizer.decode(document[:-1].tolist()) for document in store.documents()]


def test_tuning_that_is_stopped_goes_on_bit_for_bit(tuned):
    assert tuned.train("parts", "stop_after=13").code == 75
    assert tuned.train("parts").code == 0
    whole, parts = (tuned.folder / "runs" / name for name in ("whole", "parts"))
    assert learnt(parts) == learnt(whole)
    assert final_state(parts) == final_state(whole)


def test_under_muon_too(tuned):
    assert tuned.train("muon", "optimizer=muon").code == 0
    assert tuned.train("muon-parts", "optimizer=muon", "stop_after=13").code == 75
    assert tuned.train("muon-parts", "optimizer=muon").code == 0
    whole, parts, adamw = (tuned.folder / "runs" / name for name in ("muon", "muon-parts", "whole"))
    assert learnt(parts) == learnt(whole) != learnt(adamw)
    assert final_state(parts) == final_state(whole)


FURTHER = ("start_from=runs/whole", "steps=2", "optimizer.learning_rate=1e-20", "schedule.warmup_steps=0")


def test_a_run_begins_with_the_weights_of_another_and_says_whose(tuned):
    assert tuned.train("further", *FURTHER, model=()).code == 0
    source, further = (load_source(tuned.folder / "runs" / name) for name in ("whole", "further"))
    weights = dict(source.model.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in further.model.named_parameters())
    lineage = json.loads((further.folder / "trainer.json").read_text())["lineage"]
    assert lineage["start"]["checkpoint"] == source.folder.name
    assert lineage["start"]["of"]["run"] == "whole"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.packing=concatenate",), "would cut the samples"),
        (("data.sequence_length=4",), "samples are longer than data.sequence_length=4"),
        (("objective=pretrain",), "take objective=sft"),
        (("start_from=runs/none",), "start_from=runs/none: there is no such folder"),
        (("start_from=runs/whole",), "model=nano: the model is that of start_from=runs/whole"),
        (("model.document_mask=false",), "would let a sample look at others"),
    ],
)
def test_what_would_be_learnt_wrongly_is_refused(tuned, settings, message):
    finished = tuned.train("refused", *settings)
    assert finished.code == 2 and message in finished.err, finished.err
    assert not (tuned.folder / "runs" / "refused").exists()
