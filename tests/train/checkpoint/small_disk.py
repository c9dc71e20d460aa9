"""Saves real checkpoints on a disk of a few megabytes, with ever more room on it; see test_faults.py.

Usage: small_disk.py FOLDER THOROUGHNESS, with `disk` in FOLDER a file system of its own, in a mount namespace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine_runs import MODEL, OPTIMIZER, SEED, SEQUENCES, my_batches, rate, state_at, writer_into
from engine_runs import Plan as TrainingPlan

from data_pipeline.foundation.errors import Failure
from train.batch import BatchConfig, plan_batch
from train.checkpoint.folder import list_checkpoints, verify_checkpoint
from train.deepspeed_settings import ZeroConfig
from train.distributed import ClusterConfig, join_world, leave_world
from train.engine import Engine
from train.objective import ObjectiveConfig, build_objective
from train.precision import PrecisionConfig


def free(disk: Path) -> int:
    system = os.statvfs(disk)
    return system.f_bavail * system.f_frsize


def leave_free(disk: Path, count: int) -> None:
    """Fill the disk until so many bytes, whole blocks, are free."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with open(ballast, "wb") as file:
        file.write(bytes(free(disk) - count))


def main() -> None:
    folder, thoroughness = Path(sys.argv[1]), int(sys.argv[2])
    disk = folder / "disk"
    world = join_world(ClusterConfig(threads=1))
    plan = plan_batch(BatchConfig(SEQUENCES, 2), 1)
    engine = Engine(MODEL, SEED, world, plan, ZeroConfig(), PrecisionConfig(), OPTIMIZER)
    objective = build_objective(ObjectiveConfig(), False)
    engine.train_step(my_batches(1, engine.place, TrainingPlan("")), objective, rate(1), lambda *told: None)
    (disk / "tokenizer").symlink_to(folder / "tokenizer")
    writer = writer_into(str(disk / "checkpoints"), engine)
    before = free(disk)
    first = writer.save(state_at(engine, 1))
    assert first is not None
    files = [path.stat().st_size for path in first.rglob("*") if path.is_file()]
    block = os.statvfs(disk).f_frsize
    needed = sum(-(-size // block) for size in files) * block
    results = {"needed": needed, "used": before - free(disk), "room": [], "filled": [], "written while refused": 0}

    def saved() -> str | None:
        try:
            writer.save(state_at(engine, 2))
        except Failure as error:
            return str(error)
        return None

    every = max(1, needed // block // (20 * thoroughness)) * block
    for room in [*range(0, needed, every), needed - block]:
        leave_free(disk, room)
        # Others may fill the disk after it was looked at.
        with patch("train.checkpoint.writer.lacking_room", return_value=None):
            message = saved()
        left = sorted(path.name for path in (disk / "checkpoints").iterdir())
        results["filled"].append((room, message, left))
    for room in [*range(0, needed, every), needed - block, needed]:
        leave_free(disk, room)
        message = saved()
        if message is not None:
            results["written while refused"] += room - free(disk)
        results["room"].append((room, message))
    results["problems"] = [
        problem for path in list_checkpoints(disk / "checkpoints") for problem in verify_checkpoint(path)
    ]
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    results["read-only"] = saved()
    leave_world()
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
