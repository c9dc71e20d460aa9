"""Runs that are held to another model, a reference or a teacher: it stays the same whatever happens to either run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from commands import read_rows
from kills import Trainings, said
from small_runs import MEASURED, SMALL_MODEL
from soak import long

from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.readers.samples import SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig
from data_pipeline.tokenization.tokenizer_file import TokenizerFileConfig

MODEL = tuple(setting for setting in SMALL_MODEL if setting.startswith("model"))
SHARED = (
    "data.sequence_length=48",
    "data.packing=best_fit",
    "batch.sequences=8",
    "batch.micro=4",
    "schedule.warmup_steps=5",
    "checkpoint.every=5",
    "validation.every=10",
    "samples.tokens=4",
    "tracker=none",
    "cluster.threads=1",
)
BASE = ("run.name=base", "data.path=answers", "objective=sft", "steps=30", *MODEL, *SHARED, "checkpoint.keep=0")
RUNS = {
    "lora": ("objective=sft", "start_from=runs/base", "data.path=answers", "lora.rank=4", "zero=3"),
    "grpo": (
        *("objective=grpo", "start_from=runs/base", "data.path=problems", "data.packing=single", "zero=1"),
        *("objective.verifier=pattern", "objective.samples=4", "objective.tokens=6", "objective.beta=0.1"),
        *("objective.updates=2", "objective.skip_alike=true", "optimizer.learning_rate=1e-3"),
    ),
    "dpo": ("objective=dpo", "start_from=runs/base", "data.path=preferences", "zero=1"),
    "distillation": (
        *("objective=distillation", "objective.teacher=runs/base", "data.path=answers", "zero=2"),
        *("objective.temperature=2", "objective.hard_weight=0.3", *MODEL, "model.width=32"),
    ),
}
STEPS = 20


@pytest.fixture(scope="module")
def folder(trainings: Trainings, tmp_path_factory) -> Path:
    """A folder with samples of both kinds, and a base run that has stopped half way."""
    folder, draw = tmp_path_factory.mktemp("tuned"), random.Random(3)
    numbers = [(draw.randrange(50), draw.randrange(50)) for _ in range(300)]
    sums = [(f"{a}+{b}=", str(a + b), str(a + b + 1)) for a, b in numbers]
    records = {
        "answers": [{"prompt": asked, "completion": right} for asked, right, _ in sums],
        "preferences": [{"prompt": asked, "chosen": right, "rejected": wrong} for asked, right, wrong in sums],
        # Of any model's numbers about half are even, so that there is something to learn.
        "problems": [{"prompt": asked, "answer": r"\d*[02468]"} for asked, _, _ in sums],
    }
    tokenizer: BpeConfig | TokenizerFileConfig = BpeConfig(280)
    for kind, samples in records.items():
        source = folder / f"{kind}.jsonl"
        source.write_text("".join(json.dumps(each) + "\n" for each in samples))
        corpus = SamplesConfig(paths=[str(source)], kind=kind)
        prepare(PrepareConfig(str(folder / kind), corpus, tokenizer=tokenizer, workers=1, validation_fraction=0.1))
        tokenizer = TokenizerFileConfig(str(folder / "answers" / "tokenizer" / "tokenizer.json"))
    assert trainings.typed(folder, *BASE, "stop_after=15") == [75], said(folder)
    return folder


def run(trainings: Trainings, folder: Path, name: str, kind: str, *more: str, kill: dict | None = None) -> int:
    [code] = trainings.typed(folder, f"run.name={name}", *SHARED, *RUNS[kind], f"steps={STEPS}", *more, kill=kill)
    return code


def told(run: Path) -> list[dict]:
    keys = (*MEASURED, "validation_accuracy", "validation_margin", "reward", "solved", "answer_tokens", "kl", "clipped")
    return [{key: row.get(key) for key in keys} for row in read_rows(run / "metrics.jsonl")]


def state(run: Path) -> dict[str, bytes]:
    newest = run / "checkpoints" / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


SHORT = ("dpo", "grpo")


@pytest.mark.parametrize("kind", [*SHORT, *(pytest.param(kind, marks=long) for kind in RUNS if kind not in SHORT)])
def test_a_run_killed_on_the_way_goes_on_bit_for_bit_though_what_it_began_with_has_trained_on(trainings, folder, kind):
    assert run(trainings, folder, f"{kind}-whole", kind) == 0, said(folder)
    kill = {"point": "step", "count": 8, "delay": 0, "victim": "all", "suspend": False}
    assert run(trainings, folder, f"{kind}-killed", kind, kill=kill) < 0
    assert trainings.typed(folder, *BASE) == [0], said(folder)
    assert run(trainings, folder, f"{kind}-killed", kind) == 0, said(folder)
    whole, killed = (folder / "runs" / f"{kind}-{end}" for end in ("whole", "killed"))
    assert len(told(whole)) == STEPS and told(killed) == told(whole)
    assert state(whole) and state(killed) == state(whole)
    shutil.rmtree(folder / "runs" / "base" / "checkpoints" / "step-00000030")


@pytest.mark.parametrize("adapters", [(), pytest.param(("lora.rank=4",), marks=long)], ids=["whole", "adapters"])
def test_a_policy_writes_the_same_answers_at_any_stage_and_world_size_and_learns_from_them(trainings, folder, adapters):
    """What differs in the last digit may make another draw of a token, once in a million."""
    short = ("stop_after=6", "checkpoint.every=0", "validation.every=0")
    typed = (*SHARED, *RUNS["grpo"], f"steps={STEPS}", *short)
    names = [f"{name}-{len(adapters)}" for name in ("one", "two")]
    for name, ranks, zero in zip(names, (1, 2), (0, 3)):
        codes = trainings.typed(
            folder, f"run.name={name}", *typed, *adapters, f"zero={zero}", "batch.micro=2", ranks=ranks
        )
        assert set(codes) == {75}, said(folder)
    one, two = (told(folder / "runs" / name) for name in names)
    assert [row["answer_tokens"] for row in one] == pytest.approx([row["answer_tokens"] for row in two], abs=1e-9)
    for key in ("loss", "reward", "kl", "clipped"):
        assert [row[key] for row in one] == pytest.approx([row[key] for row in two], abs=1e-4), key
    assert len({row["reward"] for row in one}) > 3 and all(row["kl"] > 0 for row in one[1:])


def test_another_frozen_model_than_before_is_refused(trainings, folder):
    copy = folder / "moved"
    if not (folder / "runs" / "dpo-whole").exists():
        assert run(trainings, folder, "dpo-whole", "dpo") == 0, said(folder)
    shutil.copytree(folder / "runs" / "dpo-whole", copy / "runs" / "dpo-whole")
    shutil.rmtree(copy / "runs" / "dpo-whole" / "checkpoints" / f"step-{STEPS:08d}")
    for dataset in ("answers", "preferences"):
        shutil.copytree(folder / dataset, copy / dataset)
    assert trainings.typed(copy, *BASE, "seed=1", "stop_after=15") == [75], said(copy)
    assert run(trainings, copy, "dpo-whole", "dpo") == 2
    assert "start_from=runs/base: the run has learnt from step-" in said(copy)


def test_a_teacher_that_reads_other_tokens_is_refused(trainings, folder, small_dataset):
    typed = ("run.name=refused", f"data.path={small_dataset}", "objective=distillation", "steps=20", *MODEL)
    assert trainings.typed(folder, *typed, "objective.teacher=runs/base") == [2]
    assert "objective.teacher=runs/base reads other tokens than" in said(folder)


def test_a_teacher_with_another_vocabulary_is_refused(trainings, folder):
    arguments = ("run.name=refused", *RUNS["distillation"], *SHARED, "steps=20", "model.vocabulary_size=384")
    assert trainings.typed(folder, *arguments) == [2]
    assert "set model.vocabulary_size=320" in said(folder)
