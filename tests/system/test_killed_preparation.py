"""Preparation that is killed at any moment and started again ends with the same dataset, byte for byte."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from commands import folder_bytes, kill_all, python, run_command, start_command
from generated_corpus import generated_texts, write_json_lines
from soak import examples

KILLS = examples(4)


SOURCES = ("first", "second", "third")
"""Units are divided by source, so that there is more than one part to be done."""


def command(folder: Path, output: str, workers: int) -> list[str]:
    return python(
        *("-m", "data_pipeline.prepare", "corpus=sources", f"output={output}", f"workers={workers}"),
        *(f"corpus.sources.{source}.paths=['{folder}/{source}.jsonl']" for source in SOURCES),
        *("cleaning=standard", "cleaning.quality.enabled=false", "tokenizer.vocabulary_size=500"),
        *("validation_fraction=0.1", "block_tokens=2000", "shard_tokens=12000"),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, bytes], float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    texts = generated_texts(2400)
    for number, source in enumerate(SOURCES):
        write_json_lines(folder / f"{source}.jsonl", [*texts[number::3], *texts[:20]])  # and duplicates of the first
    started = time.monotonic()
    finished = run_command(command(folder, "dataset", 1), folder)
    assert finished.code == 0, finished.err
    return folder, folder_bytes(folder / "dataset"), time.monotonic() - started


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(undisturbed, tmp_path, workers):
    folder, expected, seconds = undisturbed
    draw = random.Random(workers)
    dataset, kills = tmp_path / "dataset", 0
    while kills < KILLS // 2:
        process = start_command(command(folder, str(dataset), workers), tmp_path)
        try:
            # What was done before isn't done again, so later tries reach further in the same time.
            process.wait(timeout=draw.uniform(0.2, 1) * seconds)
        except subprocess.TimeoutExpired:
            kills += 1
        else:  # quicker than the draw: its dataset goes, so that there is something to kill
            assert folder_bytes(dataset) == expected
            shutil.rmtree(dataset)
            seconds *= 0.8
        finally:
            kill_all(process)
    finished = run_command(command(folder, str(dataset), workers), tmp_path)
    assert finished.code == 0, finished.err
    assert folder_bytes(dataset) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
