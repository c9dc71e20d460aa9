"""`headrace profile`: a few steps of what `headrace train` would do, as a table and a trace of where time goes.

On several processes: `torchrun --nproc-per-node 8 -m train.profile.command model=llama_1b data.path=… zero=3`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb
from train.__main__ import VERB as TRAIN

NOTHING_ELSE = ("run.name=profile", "tracker=none", "checkpoint.every=0", "validation.every=0", "samples.every=0")


def run(request: Request) -> int:
    """Train for some steps in a folder that is thrown away, and tell what they were made of. Returns the exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in `train`

    from data_pipeline.foundation.configuration import Composed, compose_configuration
    from train.profile.settings import ProfileConfig, check_profile
    from train.schemas import register_schemas
    from train.settings import TrainConfig

    register_schemas()
    composed = request.compose("profile", ProfileConfig)
    if composed is None:
        return 0
    settings = composed.value.profile
    check_profile(settings)
    if composed.value.objective.kind == "grpo" or composed.value.study.kind is not None:
        raise UserError(
            "`profile` looks at one kind of step: objective=grpo writes and learns in turn, a study trains many"
        )

    from rich.console import Console

    from data_pipeline.foundation.progress import say
    from train.distributed import join_world, launched_size, leave_world
    from train.preflight import check_machine, prepare_run
    from train.profile.measure import measure
    from train.profile.table import print_profile
    from train.trainer import Trainer

    with ExitStack() as closing:
        world = join_world(composed.value.cluster)
        closing.callback(leave_world)
        root = world.from_main(closing.enter_context(tempfile.TemporaryDirectory()) if world.is_main else None)
        count = settings.warm_up + 2 * settings.steps + settings.traced
        steps = f"steps={max(composed.value.steps, count + 1)}"
        overrides = [*request.overrides, *NOTHING_ELSE, f"run.root='{root}'", steps]
        told = compose_configuration("profile", overrides, ProfileConfig, request.folders)
        here: Composed[TrainConfig] = Composed(told.value, told.data, told.overrides)
        prepared = prepare_run(here, launched_size())
        if (warning := check_machine(prepared, here.value, world.local_rank)) and world.is_main:
            say(warning)
        folder = Path(settings.output)
        world.on_main(lambda: _make(folder))
        trainer = Trainer(here, prepared, world)
        closing.callback(trainer.close)
        found = measure(trainer, settings, folder)
        if not world.is_main:
            return 0
        (folder / "profile.json").write_text(json.dumps(found.json(), indent=1) + "\n", encoding="utf-8")
        if request.json:
            print(json.dumps(found.json()))
        else:
            print_profile(found, Console(highlight=False, soft_wrap=True))
    return 0


def _make(folder: Path) -> None:
    """Make a folder. Raises UserError: it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"profile.output={folder} can't be made: {error.strerror or error}") from None


VERB = Verb(
    name="profile",
    summary="where the time and memory of a training step go: a table, and a trace to look into",
    run=run,
    groups=TRAIN.groups,
    keys=(
        ("profile.output", "folder of trace.json and profile.json"),
        ("profile.warm_up", "steps before"),
        ("profile.steps", "that are timed by part"),
        ("profile.traced", "of which every operator is recorded"),
        ("profile.operators", "shown, those that take most"),
        ("KEY", "everything that `headrace train` takes; no run of yours is touched"),
    ),
    examples=(
        "headrace profile experiment=demo data.path=datasets/python_docs",
        "headrace profile model=gpt2_124m data.path=datasets/web zero=1 compile=true profile.output=profiles/compiled",
        "headrace profile model=nano data.path=datasets/mine profile.steps=50 --json",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
