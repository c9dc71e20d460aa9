"""A run is submitted: its folder gets a copy of the code, a script and a note of the job; then SLURM is asked.

RUN/launch/train.sbatch   the script
RUN/launch/code/          the code that it runs
RUN/launch/config.yaml    the resolved configuration, for people
RUN/launch/job.json       what was submitted
RUN/launch/job-ID.log     what the processes print
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import write_json, write_text
from data_pipeline.preparation.slurm.queue import check_script
from launch.job import Job
from launch.slurm.known import CONFIGURATION, JOB, Submitted, read_submitted
from launch.slurm.queue import job_states, submit
from launch.slurm.script import Script, sweep_script
from launch.slurm.settings import SlurmCluster
from launch.slurm.snapshot import copy_code, copy_options
from launch.verdict import CANCELLED

CODE, OPTIONS = "code", "options"


def submit_jobs(jobs: Sequence[Job], cluster: SlurmCluster, processes: int) -> list[Submitted]:
    """Submit one run, or those of a sweep as an array.

    Args:
        processes: of each run; 0 where a job is one process and no rank.

    Raises:
        UserError: a run has a job already, or SLURM refuses such a job.
        Failure: SLURM doesn't answer, or a folder can't be written.
    """
    for job in jobs:
        _require_no_job(job)
    scripts = [script_of(job, cluster, processes) for job in jobs]
    check_script(scripts[0].text(), scripts[0].options, setting="cluster")
    try:
        paths = [_write(job, script) for job, script in zip(jobs, scripts)]
        if len(jobs) == 1:
            ids = _submit_chain(paths[0], scripts[0], cluster.chain)
            noted = [_note(jobs[0], ids, "job-{job}.log", processes)]
        else:
            noted = _submit_sweep(jobs, scripts, paths, cluster, processes)
    except OSError as error:
        raise Failure(f"{error.filename} can't be written: {error.strerror}") from None
    return noted


def script_of(job: Job, cluster: SlurmCluster, processes: int) -> Script:
    """Return the script of a run. Raises UserError: its folder can't be named to SLURM."""
    folder = job.launch_folder.resolve()
    if "\\" in str(folder) or not str(folder).isprintable():
        raise UserError(f"SLURM can't write logs into {str(folder)!r}: a folder without backslashes is needed")
    options = {
        "job-name": job.name,
        "output": str(folder).replace("%", "%%") + "/job-%j.log",
        "open-mode": "append",
        **cluster.options(),
    }
    copied = replace(
        job, configuration_folders=[folder / OPTIONS / str(n) for n in range(len(job.configuration_folders))]
    )
    return Script(
        title=f"{job.name}: {job.module} on {cluster.nodes} × {cluster.processes_per_node()} processes",
        options=options,
        run=job.folder.resolve(),
        working_folder=Path(os.getcwd()),
        python=sys.executable,
        module=job.module,
        arguments=copied.arguments(),
        processes=cluster.processes_per_node() if processes else 0,
        gpus=cluster.gpus is not None,
        modules=cluster.modules,
        setup=cluster.setup,
        container=cluster.container,
        container_runtime=cluster.container_runtime,
        restarts=cluster.restarts,
        requeues=cluster.requeue and cluster.chain == 1,
    )


def _require_no_job(job: Job) -> None:
    if earlier := read_submitted(job.folder):
        active = [name for name, state in job_states(earlier.jobs).items() if state.is_active]
        if active:
            raise UserError(
                f"{job.folder} has a job already, {', '.join(active)}: wait for it, `headrace cancel {job.folder}`, or "
                "choose another run.name"
            )


def _write(job: Job, script: Script) -> Path:
    folder = job.make_launch_folder()
    copy_code(folder / CODE)
    copy_options(job.configuration_folders, folder / OPTIONS)
    write_text(folder / CONFIGURATION, job.configuration)
    for left_over in (CANCELLED, "attempts.json"):
        (folder / left_over).unlink(missing_ok=True)
    path = folder / "train.sbatch"
    write_text(path, script.text())
    return path


def _submit_chain(path: Path, script: Script, length: int) -> list[str]:
    ids: list[str] = []
    for _ in range(length):
        ids.append(submit(str(path), script.options, after=ids[-1] if ids else None))
    return ids


def _submit_sweep(
    jobs: Sequence[Job], scripts: Sequence[Script], paths: Sequence[Path], cluster: SlurmCluster, processes: int
) -> list[Submitted]:
    """Submit an array; its script and logs are in the folder of the first run."""
    folder = jobs[0].launch_folder.resolve()
    limit = f"%{cluster.at_once}" if cluster.at_once else ""
    log = "sweep-%A_%a.log"
    options = {**scripts[0].options, "output": str(folder).replace("%", "%%") + f"/{log}"}
    options["array"] = f"0-{len(jobs) - 1}{limit}"
    sweep = folder / "sweep.sbatch"
    write_text(sweep, sweep_script(options, [path.resolve() for path in paths]))
    array = submit(str(sweep), options)
    return [
        _note(job, [f"{array}_{number}"], os.path.relpath(folder, job.launch_folder) + "/sweep-{job}.log", processes)
        for number, job in enumerate(jobs)
    ]


def _note(job: Job, ids: list[str], log: str, processes: int) -> Submitted:
    submitted = Submitted(job.name, ids, log, round(time.time(), 3), processes or 1)
    write_json(job.launch_folder / JOB, asdict(submitted))
    return submitted
