"""Whole trainings on GPUs: they learn what a CPU does, go on where they were, and stay within what was planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import python, read_rows, run_command
from small_runs import train_command

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="needs an NVIDIA GPU")]
several = pytest.mark.skipif(GPUS < 2, reason="needs two NVIDIA GPUs")


def losses(dataset: Path, folder: Path, *settings: str, ranks: int = 1) -> dict[int, float]:
    """Train from nothing, or go on, and return the losses of all steps on record."""
    finished = run_command(train_command(dataset, *settings, ranks=ranks), folder)
    assert finished.code == 0, finished.err
    return {row["step"]: row["loss"] for row in read_rows(folder / "runs" / "run" / "metrics.jsonl")}


@pytest.fixture(scope="module")
def on_cpu(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    folder = tmp_path_factory.mktemp("cpu")
    finished = run_command(train_command(small_dataset), folder, CUDA_VISIBLE_DEVICES="")
    assert finished.code == 0, finished.err
    return {row["step"]: row["loss"] for row in read_rows(folder / "runs" / "run" / "metrics.jsonl")}


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (("zero=0",), 1e-3),
        (("zero=1", "precision=bf16"), 0.05),
        (("zero=2", "precision=bf16"), 0.05),
        (("zero=3", "precision=bf16"), 0.05),
        (("zero=2", "precision=bf16", "zero.overlap_communication=true"), 0.05),
        (("zero=1", "precision=fp16"), 0.05),
        (("zero=2", "precision=bf16", "zero.offload_optimizer=true"), 0.05),
        (("zero=3", "precision=bf16", "zero.offload_optimizer=true", "zero.offload_parameters=true"), 0.05),
        (("zero=1", "precision=bf16", "compile=true"), 0.05),
        (("zero=3", "precision=bf16", "compile=true", "activation_checkpointing=true"), 0.05),
        (("zero=1", "precision=bf16", "compile=true", "compiled=model"), 0.05),
        *(((f"zero={stage}", "precision=bf16", "compile=true", "compiled=deepcompile"), 0.05) for stage in (1, 2, 3)),
        (("zero=3", "optimizer=muon"), None),
    ],
    ids=str,
)
def test_it_learns_what_a_cpu_does(settings, tolerance, on_cpu, small_dataset, tmp_path):
    found = losses(small_dataset, tmp_path, *settings)
    if tolerance is None:
        assert found[max(found)] < on_cpu[1]
    else:
        assert found == pytest.approx(on_cpu, abs=tolerance)


@several
@pytest.mark.parametrize(
    "settings",
    [
        *((f"zero={stage}",) for stage in (1, 2, 3)),
        *((f"zero={stage}", "compile=true", "compiled=deepcompile") for stage in (1, 2, 3)),
        *(("zero=1", "parallel.sequence=2"), ("zero=1", "parallel.tensor=2")),
    ],
    ids=" ".join,
)
def test_two_gpus_learn_what_a_cpu_does(settings, on_cpu, small_dataset, tmp_path):
    assert losses(small_dataset, tmp_path, *settings, ranks=2) == pytest.approx(on_cpu, abs=1e-3)


def test_a_stopped_run_goes_on(on_cpu, small_dataset, tmp_path):
    stopped = run_command(train_command(small_dataset, "zero=1", "stop_after=15"), tmp_path)
    assert stopped.code == 75, stopped.err
    assert losses(small_dataset, tmp_path, "zero=1") == pytest.approx(on_cpu, abs=1e-3)


def test_a_profile_finds_the_memory_that_was_planned(small_dataset, tmp_path):
    settings = ("model=small_30m", "data.sequence_length=256", "batch.sequences=16", "batch.micro=8", "zero=1")
    command = ("-m", "train.profile.command", f"data.path={small_dataset}", *settings, "precision=bf16", "--json")
    finished = run_command(python(*command), tmp_path)
    assert finished.code == 0, finished.err
    found = json.loads(finished.out)
    assert found["peak_bytes"] == pytest.approx(sum(found["planned"].values()), rel=0.15)
    assert found["waits"] <= 2, "a step waits for numbers once, and once more where DeepSpeed does"
    assert found["mfu"] is None or 0 < found["mfu"] < 1
