"""Saving a checkpoint: what training stands still for, and how fast the write is, against a plain write and fsync."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.rounds import Comparison
from data_pipeline.foundation.configuration import compose_configuration
from train.distributed import ClusterConfig, join_world, leave_world
from train.preflight import prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.trainer import Trainer

SETTINGS = (
    "model=small_30m",
    "data.sequence_length=128",
    "batch.sequences=1",
    "schedule=constant",
    "steps=1000000",
    "checkpoint.every=1",
    "checkpoint.keep=1",
    "validation.every=0",
    "samples.every=0",
    "tracker=none",
)


def saving_lines(dataset: Path, rounds: int = 9) -> Iterator[str]:
    """Save a 30M model at once, in the background, and plainly the same bytes; in turn, all to the same disk.

    The disk is given rest before each. A save takes in its manifest, its renaming, and the removal of the one before.
    """
    register_schemas()
    world = join_world(ClusterConfig())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        overrides = [*SETTINGS, f"data.path={dataset}", f"run.root={folder}"]
        composed = compose_configuration("train", overrides, TrainConfig)
        trainer = Trainer(composed, prepare_run(composed, 1), world)
        measured: tuple[list[float], ...] = ([], [], [], [])
        at_once, stalls, background, plain = measured
        for number in range(rounds + 1):
            trainer.step()
            seconds = [_timed(lambda: trainer.save(background=False))]
            trainer.step()
            seconds += [_timed(lambda: trainer.save(background=True)), _timed(trainer.writer.wait, rest=False)]
            newest = max(trainer.run.checkpoints.glob("step-*"))
            data = b"".join(path.read_bytes() for path in newest.rglob("*") if path.is_file())
            seconds += [_timed(partial(_write, data, Path(folder) / "plain"))]
            if number:
                for times, value in zip(measured, seconds):
                    times.append(value)
        trainer.stream.close()
        trainer.engine.close()
    leave_world()
    whole = [a + b for a, b in zip(stalls, background)]
    for name, times in (("saving at once", at_once), ("saving in the background", whole)):
        speed = Comparison([len(data) / time for time in times], [len(data) / time for time in plain])
        yield speed.line(name, "bytes/s", "plain write")
    for name, times in (("saving at once", at_once), ("a plain write", plain)):
        shares = [stall / time for stall, time in zip(stalls, times)]
        yield (
            f"standing still {1000 * statistics.median(stalls):.0f} ms, {name} {1000 * statistics.median(times):.0f} ms"
            f"  share {statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
        )


def _timed(work: Callable[[], object], rest: bool = True) -> float:
    if rest:
        os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write(data: bytes, path: Path) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
