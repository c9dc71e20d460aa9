"""The tracker against the real wandb, in its own process, and against a wandb that is away, absent or hung."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.foundation.errors import UserError
from train.telemetry import trackers
from train.telemetry.trackers import NoTracker, TrackerConfig, WandbTracker, open_tracker


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


def read_offline_run(path: Path) -> dict[str, Any]:
    """Read a `.wandb` file: blocks of 32 KiB with LevelDB's record framing, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, begun = path.read_bytes(), 7, b""
    run: dict[str, Any] = {"history": [], "configuration": {}, "exit_code": None}
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7]) if left >= 7 else (0, 0)
        if kind == 0:
            at += left
            continue
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (2, 3):  # the first or a middle part of a record
            continue
        record, begun = wandb_internal_pb2.Record.FromString(begun), b""
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            run["history"].append(
                {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            )
        elif record.WhichOneof("record_type") == "run":
            updates = record.run.config.update
            run |= {"id": record.run.run_id, "name": record.run.display_name, "tags": list(record.run.tags)}
            run["configuration"] = {item.key: json.loads(item.value_json) for item in updates}
        elif record.WhichOneof("record_type") == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    return [read_offline_run(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def a_fake_wandb(folder: Path, monkeypatch, code: str) -> None:
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))


def test_where_wandb_is_switched_off_nothing_is_said_or_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = open_tracker(TrackerConfig(), tmp_path, "run", {}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.finish(0)
    assert tracker.problem is None and offline_runs(tmp_path) == []


def test_a_run_is_recorded_offline_by_the_real_wandb_and_resumed_under_the_same_id(tmp_path):
    configuration = {"model": {"width": 128}, "serve": {"api_key": "very-secret"}, "seed": 7}
    hooks = (sys.exit, sys.excepthook)
    tracker = open_tracker(TrackerConfig(tags=["nano"]), tmp_path, "first light", configuration, 0)
    for step in range(1, 201):
        tracker.log(step, {"loss": 5 / step, "learning_rate": 1e-3})
    tracker.log(150, {"loss": 9.0})  # a rollback: wandb can't go back, and mustn't stumble
    tracker.sample(200, "从前", "有一条河 <script>")
    tracker.finish(75)
    resumed = open_tracker(TrackerConfig(), tmp_path, "first light", configuration, 200)
    resumed.log(201, {"loss": 0.01, "bad": float("nan")})
    resumed.finish(0)

    assert tracker.problem is None and resumed.problem is None
    assert (sys.exit, sys.excepthook) == hooks and "wandb" not in sys.modules
    before, after = offline_runs(tmp_path)
    assert [row["_step"] for row in before["history"] if "loss" in row] == list(range(1, 201))
    assert before["history"][9]["loss"] == 0.5 and before["history"][9]["learning_rate"] == 1e-3
    assert [row["_step"] for row in after["history"]] == [201]
    assert before["id"] == after["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (before["name"], before["tags"], before["exit_code"], after["exit_code"]) == ("first light", ["nano"], 75, 0)
    assert before["configuration"]["model"] == {"width": 128} and before["configuration"]["seed"] == 7
    assert not any(b"very-secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    (sample,) = tmp_path.glob("wandb/offline-run-*/files/media/html/*.html")
    assert "从前</span>有一条河 &lt;script&gt;" in sample.read_text()


def test_what_a_killed_trainer_had_logged_is_still_recorded(tmp_path):
    import subprocess

    code = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from train.telemetry.trackers import TrackerConfig, open_tracker\n"
        "tracker = open_tracker(TrackerConfig(), Path(sys.argv[1]), 'killed', {}, 0)\n"
        "for step in range(1, 51): tracker.log(step, {'loss': 1.0})\n"
        "while tracker._queue.qsize(): time.sleep(0.01)\n"
        "time.sleep(0.1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(trackers.__file__).parents[2])
    assert done.returncode == -9
    deadline = time.monotonic() + 30
    while not (runs := [run for run in offline_runs(tmp_path) if run["exit_code"] is not None]):
        assert time.monotonic() < deadline, "wandb's process didn't finish the run"
        time.sleep(0.1)
    assert len(runs[0]["history"]) == 50 and runs[0]["exit_code"] == 1


def test_training_goes_on_when_the_server_is_away(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 15.0)
    monkeypatch.setattr(trackers, "INIT_SECONDS", 2.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    tracker = open_tracker(TrackerConfig(), tmp_path, "alone", {}, 0)
    for step in range(1, 11):
        tracker.log(step, {"loss": 1.0})
    tracker.finish(0)
    assert "can't go online" in tracker.problem
    assert len(capsys.readouterr().err.splitlines()) == 1
    (run,) = offline_runs(tmp_path)
    assert len(run["history"]) == 10


def test_training_goes_on_without_wandb(tmp_path, monkeypatch, capsys):
    a_fake_wandb(tmp_path, monkeypatch, "raise ImportError('no module named wandb')")
    tracker = open_tracker(TrackerConfig(), tmp_path, "without", {}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.finish(0)
    tracker.log(2, {"loss": 1.0})
    assert "can't be imported" in tracker.problem
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracker: ") and "Training goes on" in line


def test_a_row_that_wandb_refuses_costs_that_row_alone(tmp_path):
    tracker = open_tracker(TrackerConfig(), tmp_path, "odd", {}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, "not a mapping")
    tracker.log(3, {"loss": 3.0})
    tracker.finish(0)
    assert "refused what was logged at step 2" in tracker.problem
    (run,) = offline_runs(tmp_path)
    assert [row["loss"] for row in run["history"]] == [1.0, 3.0] and run["exit_code"] == 0


def test_a_wandb_that_hangs_neither_blocks_logging_nor_the_end(tmp_path, monkeypatch):
    a_fake_wandb(tmp_path, monkeypatch, "import time\ntime.sleep(600)")
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 1.0)
    monkeypatch.setattr(trackers, "QUEUE_ROWS", 100)
    tracker = open_tracker(TrackerConfig(), tmp_path, "hung", {}, 0)
    assert isinstance(tracker, WandbTracker)
    for step in range(1, 20_001):
        tracker.log(step, {"loss": 1.0})
    began = time.monotonic()
    tracker.finish(0)
    assert time.monotonic() - began < 30
    assert tracker.dropped > 10_000
    assert tracker.problem and tracker._process.wait(10) != 0


def test_a_folder_that_cannot_be_written_is_a_problem_not_an_error(tmp_path):
    tracker = open_tracker(TrackerConfig(), tmp_path / "missing", "nowhere", {}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.finish(0)
    assert "wandb can't start" in tracker.problem


def test_online_is_for_machines_that_are_logged_in(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    wandb.teardown()
    assert not trackers._logged_in(wandb)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine other.example\n login user\n password abc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert not trackers._logged_in(wandb)
    netrc.write_text("machine wandb.example\n login user\n password abc\n")
    assert trackers._logged_in(wandb)
    wandb.teardown()


def test_no_tracker_leaves_no_trace(tmp_path):
    tracker = open_tracker(TrackerConfig(kind="none"), tmp_path, "quiet", {}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.sample(1, "a", "b")
    tracker.finish(0)
    assert isinstance(tracker, NoTracker) and tracker.problem is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [TrackerConfig(kind="tensorbord"), TrackerConfig(mode="disabled")])
def test_a_tracker_or_mode_that_does_not_exist_is_refused(tmp_path, config):
    with pytest.raises(UserError, match=r"tracker\.(kind|mode)"):
        open_tracker(config, tmp_path, "x", {}, 0)
