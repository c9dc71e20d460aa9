"""Phases on a real cluster, with everything that happens to tasks and drivers there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import kill_all, start_command
from slurm_cluster import wait_until
from slurm_tasks import Square

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.preparation.slurm.engine import SlurmEngine, check_slurm
from data_pipeline.preparation.slurm.queue import cancel_array
from data_pipeline.preparation.slurm.script import batch_script
from data_pipeline.preparation.slurm.settings import SlurmConfig

pytestmark = pytest.mark.slurm
SECONDS = 60.0
ITEMS = range(7)
DRIVER = """
import sys
from pathlib import Path
from slurm_cluster import wait_until
from slurm_tasks import Square
from data_pipeline.foundation.verb import Verb
from data_pipeline.preparation.slurm.engine import SlurmEngine
from data_pipeline.preparation.slurm.queue import cancel_array
from data_pipeline.preparation.slurm.script import batch_script
from data_pipeline.preparation.slurm.settings import SlurmConfig
folder = Path(sys.argv[1])
def run(request):
    engine = SlurmEngine(SlurmConfig(tasks=2, memory=sys.argv[2]), folder / "slurm", "test")
    engine.run("squaring", Square(folder, gate="gate"), range(7))
    return 0
sys.exit(Verb("drive", "", run).main([]))
"""


def engine(folder: Path, **settings) -> SlurmEngine:
    return SlurmEngine(SlurmConfig(**{"tasks": 2} | settings), folder / "slurm", "test")


def begun(task: Square) -> list[int]:
    return [item for item in ITEMS if task.tries(item)]


def arrays(folder: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob("slurm/*/*/launch_script.slurm"))


def assert_all_done(task: Square) -> None:
    assert [task.result(item).read_text() for item in ITEMS] == [str(item * item) for item in ITEMS]


@contextmanager
def in_the_middle(folder: Path, task: Square) -> Iterator[None]:
    """Run a phase of two tasks; give the moment at which both have begun an item and can't go on, then let them."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            engine(folder).run("squaring", task, ITEMS)
        except BaseException as error:
            errors.append(error)

    phase = threading.Thread(target=run)
    phase.start()
    try:
        wait_until(lambda: len(begun(task)) == 2, "two items to begin")
        yield
    finally:
        (folder / "gate").touch()
        phase.join(SECONDS)
    assert not phase.is_alive() and not errors, errors


@contextmanager
def driver(folder: Path, memory: str = "100M") -> Iterator[subprocess.Popen[str]]:
    """Run the same phase in a process of its own, up to the moment at which both of its tasks have begun."""
    environment = {name: os.environ[name] for name in ("SLURM_CONF", "PYTHONPATH")}
    process = start_command([sys.executable, "-c", DRIVER, str(folder), memory], folder, **environment)
    try:
        wait_until(lambda: len(begun(Square(folder))) == 2 or process.poll() is not None, "two items to begin")
        yield process
    finally:
        kill_all(process)


def test_every_item_is_done_once_and_what_is_done_needs_no_array(slurm, tmp_path, capsys):
    task = Square(tmp_path)
    engine(tmp_path).run("squaring", task, ITEMS, [3] * len(ITEMS))
    assert_all_done(task)
    assert all(len(task.tries(item)) == 1 for item in ITEMS)
    assert arrays(tmp_path) == [1]
    assert "squaring: 21 MB in" in capsys.readouterr().err
    engine(tmp_path).run("squaring", task, ITEMS)
    assert arrays(tmp_path) == [1]


def test_a_node_is_lost_in_the_middle(slurm, tmp_path):
    task = Square(tmp_path, gate="gate")
    with in_the_middle(tmp_path, task):
        lost = task.tries(begun(task)[0])[0]
        slurm.lose_node(lost)
    slurm.start_node(lost)
    assert_all_done(task)
    assert any(len(task.tries(item)) == 2 for item in ITEMS)


def test_a_task_is_cancelled_in_the_middle(slurm, tmp_path):
    task = Square(tmp_path, gate="gate")
    with in_the_middle(tmp_path, task):
        job = slurm.active()[0].split()[0]
        slurm.ask("scancel", f"{job}_1")
        wait_until(lambda: len(slurm.active()) == 1, "the task to end")
    assert_all_done(task)
    assert arrays(tmp_path) == [1, 2]


def test_a_killed_process_is_replaced_and_an_error_that_comes_again_is_told_with_its_log(slurm, tmp_path, capsys):
    task = Square(tmp_path, bad=((3, "killed once"), (4, "value")))
    with pytest.raises(Failure) as caught:
        engine(tmp_path, retries=1).run("squaring", task, ITEMS)
    message, log = re.fullmatch(r"(.*) \(log: (.*)\)", str(caught.value)).groups()
    assert message == "ValueError: number 4 is odd in $(many) 'ways'"
    assert "Traceback" in Path(log).read_text() and message in Path(log).read_text()
    assert [item for item in ITEMS if not task.result(item).exists()] == [4]
    # task 1 has items 1, 3 and 5, and loses its process with the second; the third array gets no further
    assert "3 of 7 parts are tried again" in capsys.readouterr().err
    assert len(task.tries(4)) == len(arrays(tmp_path)) == 3


def test_a_mistake_of_the_users_ends_all_processes_of_all_tasks_at_once(slurm, tmp_path):
    task = Square(tmp_path, gate="never", bad=((2, "user"),))
    with pytest.raises(UserError) as caught:
        engine(tmp_path, tasks=1, cpus_per_task=2).run("squaring", task, [2, *ITEMS])
    assert str(caught.value) == "number 2 is odd in $(many) 'ways'"
    assert slurm.active() == [] and arrays(tmp_path) == [1] and len(begun(task)) > 1


def test_values_reach_sbatch_as_they_are(slurm, tmp_path):
    value = """a 'b' "c" \\d $(touch e) `id` ;#%A {f} \\"""
    options = {"comment": value, "hold": None, "job-name": "quoted"}
    script = tmp_path / "script"
    script.write_text(batch_script(options, [], ["true"]))
    slurm.ask("sbatch", str(script))
    assert slurm.ask("squeue", "--name=quoted", "--noheader", "--format=%k") == value + "\n"
    cancel_array("quoted")


def test_a_driver_that_is_told_to_end_cancels_its_array(slurm, tmp_path):
    with driver(tmp_path) as process:
        process.terminate()
        assert process.wait(SECONDS) == 130
        assert "interrupted" in process.stderr.read()
    wait_until(lambda: not slurm.active(), "the tasks to end")


def test_a_killed_driver_goes_on_with_the_array_it_left(slurm, tmp_path):
    with driver(tmp_path) as process:
        before = slurm.active()
        process.kill()
    with driver(tmp_path) as process:
        wait_until(lambda: "going on with the array" in process.stderr.readline(), "the driver to find its array")
        assert slurm.active() == before and len(before) == 2
        (tmp_path / "gate").touch()
        assert process.wait(SECONDS) == 0
    task = Square(tmp_path)
    assert_all_done(task)
    assert all(len(task.tries(item)) == 1 for item in ITEMS) and arrays(tmp_path) == [1]


def test_a_killed_driver_started_with_other_settings_cancels_the_array_it_left(slurm, tmp_path):
    with driver(tmp_path) as process:
        process.kill()
    with driver(tmp_path, memory="200M") as process:
        assert "cancelling the array job" in process.stderr.readline()
        wait_until(lambda: arrays(tmp_path) == [1, 2], "the driver to submit an array of its own")
        (tmp_path / "gate").touch()
        assert process.wait(SECONDS) == 0
    assert_all_done(Square(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "no; touch /tmp/no"}, "SLURM refuses such a job: .*invalid partition specified: no; touch"),
        ({"time": "soon"}, "SLURM refuses such a job: .*Invalid --time"),
        ({"tasks": 100_000}, "SLURM refuses such a job: .*Invalid job array"),
        ({"sbatch": ["--frobnicate=2"]}, "SLURM refuses such a job: .*frobnicate"),
    ],
)
def test_what_slurm_would_refuse_is_told_before_anything_is_done(slurm, settings, message):
    with pytest.raises(UserError, match=message):
        check_slurm(SlurmConfig(**settings))
    check_slurm(SlurmConfig(partition="main", time="00:05:00", memory="1G", sbatch=["--exclusive"]))


def test_nodes_that_are_down_are_waited_for(slurm):
    slurm.ask("scontrol", "update", "nodename=node1,node2", "state=down", "reason=test")
    check_slurm(SlurmConfig())
    slurm.ask("scontrol", "update", "nodename=node1,node2", "state=resume")
