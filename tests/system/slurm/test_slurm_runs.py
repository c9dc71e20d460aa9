"""Runs on a real SLURM cluster of two nodes with two ranks each, and all that happens to them there."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY, Finished, free_port, read_rows, run_command, torchrun
from slurm_cluster import Cluster
from small_runs import SETTINGS, events, learnt, rows_done, samples, train_command
from soak import long, note

pytestmark = pytest.mark.slurm
STEPS = 240
LONGER = (f"steps={STEPS}", "checkpoint.every=80", "validation.every=100", "cluster.hang_seconds=20")
HERE = ("cluster=slurm", "cluster.nodes=2", "cluster.processes=2")
SECONDS = 240.0


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.ask("scancel", "--user", str(os.getuid()))
    wait_for(lambda: not slurm.active(), "all jobs to end")


@pytest.fixture(scope="module")
def uninterrupted(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in four processes that nothing disturbs, without SLURM."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    arguments = (f"data.path={small_dataset}", "run.name=run", *SETTINGS, *LONGER)
    finished = run_command(torchrun(4, "-m", "train", *arguments), folder)
    assert finished.code == 0, finished.err
    return folder / "runs" / "run"


def wait_for(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> float:
    """Return how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited too long for {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def asked(command: list[str], folder: Path, **environment: str) -> Finished:
    """Run a command that talks to the cluster."""
    return run_command(command, folder, SLURM_CONF=os.environ["SLURM_CONF"], **environment)


def submit(dataset: Path, folder: Path, *more: str, name: str = "run", steps: tuple[str, ...] = LONGER) -> Path:
    """Submit a run; return its folder."""
    finished = asked(train_command(dataset, *steps, *HERE, *more, name=name), folder)
    assert finished.code == 0, finished.err
    return folder / "runs" / name


def headrace(folder: Path, *arguments: str) -> str:
    finished = asked([*train_command(folder)[:3], *arguments], folder)
    assert finished.code == 0, finished.err
    return finished.out


def log(run: Path) -> str:
    return "".join(path.read_text() for path in sorted((run / "launch").glob("*.log")))


def has_finished(run: Path) -> Callable[[], bool]:
    return lambda: events(run)[-1:] == ["finished"]


def assert_same(run: Path, reference: Path) -> None:
    """Every loss, sample and bit of the final weights and moments is that of the run that nothing disturbed."""
    assert learnt(run) == learnt(reference)
    assert [row["step"] for row in learnt(run)] == list(range(1, STEPS + 1))
    assert samples(run) == samples(reference)
    states = [sorted((each / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")) for each in (run, reference)]
    assert len(states[0]) == 8  # of each rank its pieces, and its random state
    assert [path.read_bytes() for path in states[0]] == [path.read_bytes() for path in states[1]]


def test_a_preempted_run_goes_on_by_itself_to_the_same_bits(slurm, uninterrupted, small_dataset, tmp_path):
    run = submit(small_dataset, tmp_path)
    # What waits in the queue is a copy.
    assert (run / "launch" / "code" / "train" / "trainer.py").is_file()
    wait_for(lambda: rows_done(run) >= 5, "the first steps")
    began = time.monotonic()
    urgent = tmp_path / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\nsleep 1\n")
    options = ("--partition=urgent", "--nodes=2", "--exclusive", f"--output={tmp_path}/urgent.log")
    assert slurm.ask("sbatch", "--parsable", *options, str(urgent)).strip().isdigit()
    wait_for(lambda: "resumed" in events(run), "the run to go on")
    [row] = json.loads(headrace(tmp_path, "jobs", "--json"))
    assert row["state"] == "running" and row["steps"] == STEPS and row["limit_seconds"] > 0
    wait_for(has_finished(run), "the run to finish")
    wait_for(lambda: not slurm.active(), "the job to end")
    assert [kind for kind in events(run) if kind in ("started", "preempted", "resumed", "finished")] == [
        *("started", "preempted", "resumed", "finished")
    ]
    assert_same(run, uninterrupted)
    # The same run for the tracker too: one folder, one id.
    assert headrace(tmp_path, "logs", "run", "--follow").count("going on from") == 1
    note("SLURM", what="preempted, requeued, finished", seconds=round(time.monotonic() - began), bitwise="yes")


@long
def test_a_lost_node_puts_the_run_back_into_the_queue_and_it_ends_in_the_same_bits(
    slurm, uninterrupted, small_dataset, tmp_path
):
    run = submit(small_dataset, tmp_path)
    wait_for(lambda: rows_done(run) >= 90, "a checkpoint")
    began = time.monotonic()
    slurm.lose_node("node2")
    wait_for(lambda: "PENDING" in " ".join(slurm.active()), "the job to be queued again")
    slurm.start_node("node2")
    slurm.ask("scontrol", "update", "nodename=node2", "state=resume")
    wait_for(has_finished(run), "the run to finish")
    assert_same(run, uninterrupted)
    note("SLURM", what="node lost, requeued, finished", seconds=round(time.monotonic() - began), bitwise="yes")


@long
def test_a_rank_that_is_killed_has_the_run_started_again(slurm, uninterrupted, small_dataset, tmp_path):
    run = submit(small_dataset, tmp_path)
    wait_for(lambda: rows_done(run) >= 90, "a checkpoint")
    began = time.monotonic()
    beat = json.loads((run / "heartbeats" / "rank-00003.json").read_bytes())
    os.kill(beat["pid"], 9)
    wait_for(has_finished(run), "the run to finish")
    wait_for(lambda: not slurm.active(), "the job to end")
    assert "restart" in log(run) and json.loads((run / "launch" / "attempts.json").read_bytes())["failed"] == 0
    assert_same(run, uninterrupted)
    note("SLURM", what="rank killed, requeued, finished", seconds=round(time.monotonic() - began), bitwise="yes")


@long
def test_the_time_limit_is_announced_and_the_run_goes_on_after_it(slurm, uninterrupted, small_dataset, tmp_path):
    # A minute is SLURM's shortest limit; the warning comes up to a minute early, so the first seconds of the job.
    run = submit(small_dataset, tmp_path, "cluster.time=2", "cluster.warn_seconds=70", steps=(*LONGER, "steps=40000"))
    began = time.monotonic()
    wait_for(lambda: "preempted" in events(run), "the warning")
    wait_for(lambda: "resumed" in events(run), "the run to go on")
    reason = next(row["reason"] for row in read_rows(run / "events.jsonl") if row["kind"] == "preempted")
    assert reason in ("SIGUSR1", "another rank was asked to stop", "the job's time limit is near")
    headrace(tmp_path, "cancel", "run")
    assert events(run)[-1] == "preempted" and not slurm.active()
    note("SLURM", what=f"limit of 2 minutes, warned ({reason})", seconds=round(time.monotonic() - began), bitwise="–")


@long
def test_cancel_saves_first_and_the_run_stays_stopped(slurm, uninterrupted, small_dataset, tmp_path):
    run = submit(small_dataset, tmp_path)
    wait_for(lambda: rows_done(run) >= 5, "the first steps")
    began = time.monotonic()
    headrace(tmp_path, "cancel", "run")
    seconds = time.monotonic() - began
    assert not slurm.active() and events(run)[-1] == "preempted"
    last = read_rows(run / "events.jsonl")[-1]["step"]
    assert (run / "checkpoints" / f"step-{last:08d}").is_dir()
    assert submit(small_dataset, tmp_path) == run
    wait_for(has_finished(run), "the run to finish")
    assert_same(run, uninterrupted)
    note("SLURM", what="cancelled with a checkpoint, submitted again, finished", seconds=round(seconds), bitwise="yes")


@long
def test_scancel_saves_too_and_the_run_stays_stopped(slurm, uninterrupted, small_dataset, tmp_path):
    run = submit(small_dataset, tmp_path)
    wait_for(lambda: rows_done(run) >= 5, "the first steps")
    job = json.loads((run / "launch" / "job.json").read_bytes())["jobs"][0]
    slurm.ask("scancel", job)
    seconds = wait_for(lambda: not slurm.active(), "the job to end")
    assert "PENDING" not in slurm.ask("squeue", "--states=all", "--noheader", f"--jobs={job}", "--format=%T")
    submit(small_dataset, tmp_path)
    wait_for(has_finished(run), "the run to finish")
    assert_same(run, uninterrupted)
    note("SLURM", what="scancel, submitted again, finished", seconds=round(seconds), bitwise="yes")


@long
def test_a_sweep_is_an_array_with_a_run_folder_for_each_task(slurm, small_dataset, tmp_path):
    command = train_command(small_dataset, "optimizer.learning_rate=1e-3,2e-3", "seed=1,2", "cluster=slurm", "-m")
    finished = asked(command, tmp_path)
    assert finished.code == 0, finished.err
    runs = [tmp_path / "runs" / f"run-{number}" for number in range(4)]
    seconds = wait_for(lambda: all(has_finished(run)() for run in runs), "all runs to finish")
    wait_for(lambda: not slurm.active(), "the jobs to end")
    assert len({learnt(run)[-1]["loss"] for run in runs}) == 4
    table = json.loads(headrace(tmp_path, "jobs", "--json"))
    assert [(row["state"], row["step"]) for row in table] == [("finished", 40)] * 4
    assert headrace(tmp_path, "logs", "run-3").count("finished at step 40") == 1
    note("SLURM", what="array of 4 runs", seconds=round(seconds), bitwise="–")


@long
def test_a_chain_of_jobs_goes_on_where_the_one_before_has_stopped(slurm, uninterrupted, small_dataset, tmp_path):
    run = submit(small_dataset, tmp_path, "cluster.chain=2")
    first, second = json.loads((run / "launch" / "job.json").read_bytes())["jobs"]
    wait_for(lambda: rows_done(run) >= 5, "the first steps")
    began = time.monotonic()
    slurm.ask("scancel", "--signal=USR1", first)
    wait_for(has_finished(run), "the run to finish")
    assert [kind for kind in events(run) if kind in ("preempted", "resumed")] == ["preempted", "resumed"]
    assert f"job-{second}.log" in {path.name for path in (run / "launch").iterdir()}
    assert_same(run, uninterrupted)
    note("SLURM", what="chain of 2 jobs", seconds=round(time.monotonic() - began), bitwise="yes")


@long
def test_later_edits_of_the_code_do_not_change_a_job_that_waits(slurm, small_dataset, tmp_path):
    checkout = tmp_path / "checkout"
    for package in ("conf", "data_pipeline", "train", "launch"):
        source = Path(__file__).parents[3] / package
        shutil.copytree(source, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = train_command(small_dataset, "cluster=slurm", name="run")
    finished = asked(command, tmp_path, PYTHONPATH=str(checkout))
    assert finished.code == 0, finished.err
    (checkout / "train" / "trainer.py").write_text("raise RuntimeError('edited')\n")
    (checkout / "conf" / "model" / "nano.yaml").write_text("width: 1\n")
    run = tmp_path / "runs" / "run"
    wait_for(has_finished(run), "the run to finish")


@long
def test_the_script_to_copy_requeues_itself(slurm, uninterrupted, small_dataset, tmp_path):
    script = REPOSITORY / "launch" / "train.sbatch"
    settings = (f"data.path={small_dataset}", "run.name=run", *SETTINGS, *LONGER)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["sbatch", "--parsable", "--nodes=2", "--time=10", "--job-name=run", str(script), *settings]
    finished = asked(command, tmp_path, PATH=path, PROCESSES="2")
    assert finished.code == 0, finished.err
    run = tmp_path / "runs" / "run"
    wait_for(lambda: rows_done(run) >= 5, "the first steps")
    slurm.ask("scancel", "--signal=USR1", finished.out.strip())
    wait_for(has_finished(run), "the run to finish")
    assert [kind for kind in events(run) if kind in ("preempted", "resumed")] == ["preempted", "resumed"]
    assert_same(run, uninterrupted)


@long
def test_deepspeeds_launcher_starts_ranks_by_srun_within_an_allocation(slurm, uninterrupted, small_dataset, tmp_path):
    # How many processes there are is all that it takes from the file; where they meet is its first line.
    (tmp_path / "hosts").write_text("127.0.0.1 slots=4\n")
    where = ("cluster=deepspeed", "cluster.launcher=slurm", "cluster.hostfile=hosts", f"cluster.port={free_port()}")
    command = train_command(small_dataset, *LONGER, *where)
    finished = asked(["salloc", "--nodes=2", "--ntasks=4", *command], tmp_path)
    assert finished.code == 0, finished.err
    assert_same(tmp_path / "runs" / "run", uninterrupted)


def test_prepare_and_evaluate_run_as_jobs_of_one_process(slurm, small_dataset, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"{number} and more of it" for number in range(200)))
    settings = ("corpus=files", "corpus.paths=[texts.txt]", "corpus.separator='\\n\\n'", "output=made", "workers=1")
    command = [*train_command(small_dataset)[:3], "prepare", *settings, "cluster=slurm"]
    finished = asked(command, tmp_path)
    assert finished.code == 0, finished.err
    wait_for(lambda: not slurm.active(), "the job to end")
    assert (tmp_path / "made" / "manifest.json").is_file(), log(next((tmp_path / "runs").iterdir()))


@long
def test_doctor_looks_at_every_node(slurm, tmp_path):
    finished = asked([*train_command(tmp_path)[:3], "doctor", "--json", "cluster=slurm"], tmp_path)
    told = {each["host"]: each["findings"] for each in map(json.loads, finished.out.splitlines())}
    assert set(told) == {"node1", "node2"}, finished.err
    for findings in told.values():
        assert {finding["subject"] for finding in findings} >= {"packages", "disk", "launchers", "all-reduce"}
    levels = {finding["level"] for findings in told.values() for finding in findings}
    assert finished.code == int("red" in levels)
