"""Runs are submitted, or shown as they would be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape

from data_pipeline.foundation.progress import say
from data_pipeline.foundation.verb import Request
from data_pipeline.preparation.slurm.queue import check_script
from launch.job import Job
from launch.slurm.settings import SlurmCluster
from launch.slurm.submission import script_of, submit_jobs


def start_on_slurm(jobs: Sequence[Job], cluster: SlurmCluster, processes: int, request: Request) -> int:
    """Submit runs, or with `--dry-run` let SLURM judge the first one's script and print it. Returns the exit code.

    Raises:
        UserError, Failure: as `submit_jobs` says.
    """
    if request.dry_run:
        script = script_of(jobs[0], cluster, processes)
        check_script(script.text(), script.options, setting="cluster")
        print(json.dumps({"script": script.text()}) if request.json else script.text(), end="")
        return 0
    submitted = submit_jobs(jobs, cluster, processes)
    if request.json:
        print(json.dumps([{"run": str(job.folder), **asdict(noted)} for job, noted in zip(jobs, submitted)]))
    for job, noted in zip(jobs, submitted):
        say(escape(f"{job.folder} is submitted as job {', then '.join(noted.jobs)}"))
    first = jobs[0].folder
    say(escape(f"`headrace jobs` shows how they are; `headrace logs {first} --follow` what is printed"))
    return 0
