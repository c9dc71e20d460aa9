"""`headrace train`: decides where. Here means this process; elsewhere a launcher starts `python -m train` as ranks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request
from train.__main__ import VERB as IN_THIS_PROCESS

if TYPE_CHECKING:
    from data_pipeline.foundation.configuration import Composed
    from launch.job import Job
    from train.distributed import ClusterConfig
    from train.settings import TrainConfig


def run(request: Request) -> int:
    """Check the run as its ranks will, then start it where `cluster` says. Returns the exit code."""
    if request.multirun:
        return _sweep(request)
    if "RANK" in os.environ or not _may_name_a_cluster(request):
        return IN_THIS_PROCESS.run(request)
    composed = _compose(request)
    cluster = composed.value.cluster
    if cluster.kind == "local":
        return IN_THIS_PROCESS.run(request)
    if request.print_configuration:
        print(composed.yaml(), end="")
        return 0
    processes = _checked(cluster)
    return _start([_prepared(composed, request.folders, processes)], cluster, processes, request)


def _may_name_a_cluster(request: Request) -> bool:
    """Tell whether settings may choose a cluster: by name, or by what an experiment or a folder of the user's has."""
    chosen = ("cluster=", "experiment=")
    return bool(request.folders) or any(text.lstrip("+").startswith(chosen) for text in request.overrides)


def _compose(request: Request) -> Composed[TrainConfig]:
    from data_pipeline.foundation.configuration import compose_configuration
    from launch import schemas as launchers
    from train import schemas
    from train.settings import TrainConfig

    schemas.register_schemas()
    launchers.register_schemas()
    return compose_configuration("train", request.overrides, TrainConfig, request.folders)


def _prepared(chosen: Composed[TrainConfig], folders: list[Path], processes: int) -> Job:
    """Return a run that its ranks will find in order. Raises UserError, Failure: as they would."""
    import yaml

    from launch.job import Job, process_settings
    from train.preflight import prepare_run
    from train.telemetry.withheld import without_secrets

    composed = _compose(Request(process_settings(chosen), folders=folders))
    prepared = prepare_run(composed, processes)
    # A name that is made from the settings is chosen once, here.
    named = [] if composed.value.run.name is not None else [f"run.name='{prepared.run.name}'"]
    settings, lines = [*composed.overrides, *named], prepared.lines(composed.value)
    configuration = yaml.safe_dump(without_secrets(composed.data), sort_keys=False, allow_unicode=True)
    return Job(prepared.run.name, prepared.run.path, "train", settings, folders, configuration, lines)


def _checked(cluster: ClusterConfig) -> int:
    """Return the number of all processes. Raises UserError: the cluster's settings can't work."""
    from launch.deepspeed import DeepspeedCluster, check_deepspeed
    from launch.slurm.settings import SlurmCluster
    from launch.torchrun import TorchrunCluster, check_torchrun

    if isinstance(cluster, TorchrunCluster):
        return check_torchrun(cluster)
    if isinstance(cluster, DeepspeedCluster):
        return check_deepspeed(cluster)
    if isinstance(cluster, SlurmCluster):
        cluster.check()
        return cluster.nodes * cluster.processes_per_node()
    raise UserError(f"cluster.kind={cluster.kind} is chosen by cluster=local, torchrun, deepspeed or slurm")


def _start(jobs: Sequence[Job], cluster: ClusterConfig, processes: int, request: Request) -> int:
    """Start runs, or show how they would be."""
    from launch.deepspeed import DeepspeedCluster, shown_deepspeed, start_deepspeed
    from launch.slurm.settings import SlurmCluster
    from launch.torchrun import TorchrunCluster, shown_torchrun, start_torchrun

    if request.dry_run or isinstance(cluster, SlurmCluster):
        count = [f"runs     {len(jobs)}, the first of them:"] if len(jobs) > 1 else []
        print("\n".join([*count, *jobs[0].lines]), file=sys.stderr)
    if isinstance(cluster, SlurmCluster):
        from launch.slurm.start import start_on_slurm

        return start_on_slurm(jobs, cluster, processes, request)
    show: Callable[[Job], str]
    if isinstance(cluster, TorchrunCluster):
        show, start = (lambda job: shown_torchrun(job, cluster)), (lambda job: start_torchrun(job, cluster))
    else:
        assert isinstance(cluster, DeepspeedCluster)
        show, start = (lambda job: shown_deepspeed(job, cluster)), (lambda job: start_deepspeed(job, cluster))
    if request.dry_run:
        commands = [show(job) for job in jobs]
        print(json.dumps(commands) if request.json else "\n\n".join(commands))
        return 0
    return max(start(job).run() for job in jobs)


def _sweep(request: Request) -> int:
    """Start a run for each combination of values: an array on SLURM, elsewhere one after the other."""
    from launch.sweep import combinations

    requests = [replace(request, overrides=each, multirun=False) for each in combinations(request.overrides)]
    runs = [_compose(each) for each in requests]
    cluster = runs[0].value.cluster
    if any(each.value.cluster != cluster for each in runs):
        raise UserError("--multirun: all runs of a sweep are on one cluster; sweep over other keys than cluster")
    if request.print_configuration or cluster.kind == "local":
        return max(_alone(each) for each in requests)
    processes = _checked(cluster)
    jobs = [_prepared(each, request.folders, processes) for each in runs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("--multirun: two runs of the sweep are the same; sweep over keys that decide what is learnt")
    return _start(jobs, cluster, processes, request)


def _alone(request: Request) -> int:
    """Train one run of a sweep in a process of its own: a process group can be joined once."""
    import subprocess

    flags = ["--dry-run"] * request.dry_run + ["--json"] * request.json
    flags += ["--cfg", "job"] if request.print_configuration else []
    flags += [word for folder in request.folders for word in ("--config-dir", str(Path(folder)))]
    return subprocess.run([sys.executable, "-m", "launch.command", "train", *request.overrides, *flags]).returncode


VERB = replace(
    IN_THIS_PROCESS,
    run=run,
    examples=(
        "headrace train experiment=demo data.path=datasets/python_docs",
        "headrace train model=llama_1b data.path=datasets/web zero=3 precision=bf16 cluster=torchrun",
        "headrace train model=llama_8b data.path=datasets/web zero=3 cluster=slurm cluster.nodes=8 cluster.gpus=8",
        "headrace train -m optimizer.learning_rate=1e-4,3e-4 data.path=datasets/web cluster=slurm",
    ),
    flags=("--json", "--dry-run", "--multirun"),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
