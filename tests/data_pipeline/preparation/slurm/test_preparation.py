"""Whole preparations on a real cluster: byte for byte what this machine makes alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from commands import folder_bytes, kill_all, run_command, start_command
from generated_corpus import configuration, generated_texts, write_json_lines
from soak import long

from data_pipeline.prepare import prepare

pytestmark = pytest.mark.slurm
SOURCES = ("a", "b", "c")


def settings(folder: Path, output: str) -> list[str]:
    """Return overrides for three sources, each of which is a part of its own."""
    for number, source in enumerate(SOURCES):
        write_json_lines(folder / f"{source}.jsonl", [*generated_texts(400, seed=number), *generated_texts(20)])
    return [
        "corpus=sources",
        *(f"corpus.sources.{source}.paths=['{folder}/{source}.jsonl']" for source in SOURCES),
        *(f"output='{folder / output}'", "tokenizer.vocabulary_size=300", "block_tokens=500", "workers=1"),
        *("validation_fraction=0.1", "provenance=true", "cleaning=standard", "cleaning.quality.enabled=false"),
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three sources, and in `local` the dataset that this machine makes of them."""
    folder = tmp_path_factory.mktemp("corpus")
    prepare(configuration(*settings(folder, "local")))
    return folder


def command(folder: Path, output: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "data_pipeline.prepare", *settings(folder, output), "engine=slurm", *more]


def assert_same_dataset(one: Path, other: Path) -> None:
    files, others = folder_bytes(one), folder_bytes(other)
    assert files.keys() == others.keys() and len(files) > 6
    assert [name for name in files if files[name] != others[name]] == []


@long
def test_one_task_makes_the_dataset_of_this_machine_in_a_folder_of_any_name(slurm, corpus):
    folder = corpus / "100% 'a'; $(touch b)"
    folder.mkdir()
    write = configuration(*settings(corpus, "unused"), "engine=slurm", "engine.tasks=1")
    write.output = str(folder / "dataset")
    prepare(write)
    assert_same_dataset(folder / "dataset", corpus / "local")
    assert [path.name for path in folder.iterdir()] == ["dataset"]


def test_three_tasks_make_the_dataset_of_this_machine_though_the_driver_is_killed(slurm, corpus):
    environment = {name: os.environ[name] for name in ("SLURM_CONF", "PYTHONPATH")}
    process = start_command(command(corpus, "three", "engine.tasks=3"), corpus, **environment)
    try:
        for line in process.stderr:
            if line.startswith("encoding with"):
                break
    finally:
        kill_all(process)
    finished = run_command(command(corpus, "three", "engine.tasks=3"), corpus, **environment)
    assert finished.code == 0, finished.err
    assert "going on with what an earlier try left" in finished.err and "trained" not in finished.err
    assert_same_dataset(corpus / "three", corpus / "local")


def test_a_mistake_in_the_text_is_told_as_on_this_machine(slurm, tmp_path):
    environment = {name: os.environ[name] for name in ("SLURM_CONF", "PYTHONPATH")}
    settings(tmp_path, "dataset")
    with open(tmp_path / "b.jsonl", "a") as file:
        file.write(json.dumps({"no": "text"}) + "\n")
    files = {path.name for path in tmp_path.iterdir()}
    ends = []
    for engine in ("local", "slurm"):
        arguments = [sys.executable, "-m", "data_pipeline.prepare", "corpus=files", f"engine={engine}"]
        paths = f"corpus.paths=['{tmp_path}/b.jsonl']"
        finished = run_command([*arguments, paths, f"output={tmp_path}/dataset"], tmp_path, **environment)
        ends.append((finished.code, finished.headrace_lines))
    assert ends[0] == ends[1] and ends[0][0] == 2 and len(ends[0][1]) == 1
    assert {path.name for path in tmp_path.iterdir()} == files
