"""`headrace train`, and `python -m train` for torchrun and deepspeed: trains a run, or goes on with it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb


def run(request: Request) -> int:
    """Compose, check, and unless it is a dry run, train in the processes that are there. Returns the exit code."""
    # Read once, when torch is loaded. OpenMP's threads otherwise spin for a millisecond while they wait for each other,
    # and on a machine with other work two of them were measured to take five times as long as one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

    from train.schemas import register_schemas
    from train.settings import TrainConfig

    register_schemas()
    for override in request.overrides:
        if override.startswith("cluster=") and override != "cluster=local":
            raise UserError(
                f"{override}: `python -m train` is what a launcher starts; `headrace train {override}` starts it"
            )
    composed = request.compose("train", TrainConfig)
    if composed is None:
        return 0
    if composed.value.study.kind is not None:
        from train.study.chain_of_thought import run_study

        return run_study(composed, request.dry_run)

    from data_pipeline.foundation.progress import say
    from train.distributed import join_world, launched_local_rank, launched_size, leave_world
    from train.preflight import check_machine, prepare_run

    prepared = prepare_run(composed, launched_size())
    local_rank = launched_local_rank()
    if (warning := check_machine(prepared, composed.value, local_rank)) and local_rank == 0:
        say(warning)
    if request.dry_run:
        print(json.dumps(asdict(prepared.batch)) if request.json else "\n".join(prepared.lines(composed.value)))
        return 0

    from train.run_lock import hold_run
    from train.trainer import Trainer

    # Our own tokenizers are never used by two processes at once, and the warning about it helps nobody.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    world = join_world(composed.value.cluster)
    try:
        with ExitStack() as held:
            world.on_main(lambda: held.enter_context(hold_run(prepared.run.path)))
            return Trainer(composed, prepared, world).train()
    finally:
        leave_world()


VERB = Verb(
    name="train",
    summary="trains or tunes a model; started again with the same settings, it goes on",
    run=run,
    groups=(
        "experiment",
        "model",
        "objective",
        "quantization",
        "optimizer",
        "schedule",
        "zero",
        "precision",
        "tracker",
        "cluster",
    ),
    keys=(
        ("data.path", "a dataset folder that `headrace prepare` wrote, or its URL"),
        ("data.sequence_length", "tokens of a model's input"),
        ("start_from", "a run or checkpoint whose model and weights are tuned"),
        ("lora.rank", "of adapters that are trained instead of all weights"),
        ("data.weights, .epochs, .stages", "what is read of which source, and when"),
        ("data.packing=best_fit", "whole documents, each of which sees itself alone"),
        ("steps", "optimizer steps"),
        ("batch.sequences", "sequences of a step, over all processes"),
        ("batch.micro", "sequences of one forward pass"),
        ("run.name", "name of the run's folder; made from the settings if left out"),
        ("checkpoint.every", "steps between checkpoints"),
        ("checkpoint.upload", "s3://, gs:// or a path that each is copied to as well"),
        ("time_limit", "leave with a checkpoint before it is over: seconds or HH:MM:SS"),
        ("deepspeed.KEY", "options passed through to DeepSpeed"),
    ),
    examples=(
        "headrace train experiment=demo data.path=datasets/python_docs",
        "headrace train model=gpt2_124m data.path=datasets/web zero=1 precision=bf16 batch.sequences=512",
        "torchrun --nproc-per-node 8 -m train model=llama_1b data.path=datasets/web zero=3 precision=bf16",
    ),
    flags=("--json", "--dry-run"),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
