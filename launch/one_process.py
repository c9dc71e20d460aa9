"""`prepare` and `evaluate` elsewhere: a command that is one process, as a job on a SLURM cluster."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb


@dataclass
class JobConfig:
    """Where a command of one process runs.

    Args:
        cluster: `local` or `slurm`.
    """

    cluster: Any = field(default_factory=dict)


def somewhere(verb: Verb, module: str) -> Verb:
    """Return a verb that takes `cluster=slurm` too, in a folder `runs/VERB-HASH` of its own."""

    def run(request: Request) -> int:
        where = [text for text in request.overrides if text.startswith(("cluster=", "cluster."))]
        here = replace(request, overrides=[text for text in request.overrides if text not in where])
        return _submit(verb, module, where, here) if where else verb.run(request)

    return replace(verb, run=run, groups=(*verb.groups, "cluster"))


def _submit(verb: Verb, module: str, where: list[str], here: Request) -> int:
    from data_pipeline.foundation.configuration import compose_configuration, register
    from data_pipeline.foundation.files import text_hash
    from launch.job import Job
    from launch.schemas import register_schemas
    from launch.slurm.settings import SlurmCluster
    from launch.slurm.start import start_on_slurm

    register("job_schema", JobConfig)
    register_schemas()
    composed = compose_configuration("job", where, JobConfig, here.folders)
    cluster = composed.value.cluster
    if not isinstance(cluster, SlurmCluster):
        if composed.data["cluster"].get("kind") == "local":
            return verb.run(here)
        raise UserError(f"{where[0]}: `{verb.name}` is one process: cluster=local or slurm")
    cluster.check()
    if cluster.nodes > 1 or cluster.processes_per_node() > 1:
        raise UserError(f"`{verb.name}` is one process: leave out cluster.nodes and cluster.processes")
    configuration = io.StringIO()
    with contextlib.redirect_stdout(configuration):
        verb.run(replace(here, print_configuration=True))
    if here.print_configuration:
        print(composed.yaml() + configuration.getvalue(), end="")
        return 0
    if "--dry-run" in verb.flags:
        # Its own look at the input, before anything is queued.
        with contextlib.redirect_stdout(io.StringIO()):
            verb.run(replace(here, dry_run=True))
    name = f"{verb.name}-{text_hash(chr(0).join([str(Path.cwd()), *here.overrides]))[:8]}"
    job = Job(name, Path("runs") / name, module, here.overrides, here.folders, configuration.getvalue())
    return start_on_slurm([job], cluster, 0, here)
