"""The same on every node of a SLURM cluster, as a short job that is waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.slurm.queue import submission_environment
from launch.doctor.finding import RED, Finding
from launch.slurm.settings import SlurmCluster

LEFT_OUT = ("signal", "requeue", "no-requeue", "nodes", "ntasks-per-node", "time")
MINUTES = 5


def look_at_nodes(cluster: SlurmCluster, folder: Path, wait_seconds: float) -> dict[str, list[Finding]]:
    """Return what is found on each node, by its name.

    Args:
        folder: in which runs will be.
        wait_seconds: for the job to end.

    Raises:
        UserError: SLURM refuses the job.
        Failure: it has not ended in time, or a node told nothing.
    """
    cluster.check()
    options = {name: value for name, value in cluster.options().items() if name not in LEFT_OUT}
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    nodes = cluster.nodes if cluster.nodes > 1 else _nodes(cluster.partition)
    srun = [
        "srun",
        "--job-name=headrace-doctor",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        f"--time={MINUTES}",
        *words,
    ]
    doctor = [sys.executable, "-m", "launch.doctor.__main__", "--json", f"folder='{folder.absolute()}'"]
    roots = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        with submission_environment(options):
            environment = {**os.environ, "PYTHONPATH": roots}
            done = subprocess.run(
                [*srun, *doctor], capture_output=True, text=True, timeout=wait_seconds, env=environment
            )
    except FileNotFoundError:
        raise UserError("cluster=slurm: there is no SLURM here (no command `srun`)") from None
    except subprocess.TimeoutExpired:
        raise Failure(
            f"the job on {nodes} nodes has not ended within {wait_seconds:.0f} s: nodes may be taken; "
            "give fewer by cluster.nodes, or more by wait_seconds"
        ) from None
    found: dict[str, list[Finding]] = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"host"'):
            told = json.loads(line)
            found[told["host"]] = [Finding(**finding) for finding in told["findings"]]
    if not found:
        raise UserError(f"cluster=slurm: SLURM refuses such a job: {' '.join(done.stderr.split())}")
    if len(found) < nodes:
        found["SLURM"] = [Finding(RED, "nodes", f"{len(found)} of {nodes} nodes have answered", "see `sinfo -R`")]
    return found


def _nodes(partition: str | None) -> int:
    command = ["sinfo", "--noheader", "--format=%D", "--states=idle,mix,alloc"]
    try:
        done = subprocess.run(
            [*command, *([f"--partition={partition}"] if partition else [])], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        raise UserError("cluster=slurm: SLURM doesn't answer (`sinfo`)") from None
    counts = [int(line) for line in done.stdout.split() if line.isdigit()]
    if not counts:
        raise UserError(f"cluster=slurm: no node is up: {' '.join(done.stderr.split()) or 'see `sinfo -R`'}")
    return max(counts)
