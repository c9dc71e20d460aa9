"""Trains one run after another in the same processes: starting them costs more than training here.

Usage: torchrun --nproc-per-node N runs_in_one_process.py RUNS.json, a list of what would be typed after `train`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data_pipeline.foundation.configuration import compose_configuration
from train.distributed import join_world, launched_size, leave_world
from train.preflight import prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.trainer import Trainer


def main() -> None:
    register_schemas()
    runs = [compose_configuration("train", typed, TrainConfig) for typed in json.loads(Path(sys.argv[1]).read_text())]
    world = join_world(runs[0].value.cluster)
    try:
        for composed in runs:
            Trainer(composed, prepare_run(composed, launched_size()), world).train()
    finally:
        leave_world()


if __name__ == "__main__":
    main()
