"""A server of wandb's that fails, forbids or hangs neither stops nor slows a run, and gets all of it later."""

from __future__ import annotations

import json
import time

import pytest
from soak import long
from wandb_server import wandb_server

from train.telemetry import trackers
from train.telemetry.trackers import TrackerConfig, open_tracker


@pytest.fixture(autouse=True)
def logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setattr(trackers, "INIT_SECONDS", 2.0)
    monkeypatch.setattr(trackers, "SEND_SECONDS", 3)


def train_to(step, folder, while_running=lambda tracker: None):
    """Log the ten steps up to one, in a start of their own; return the tracker, and the longest that a call took."""
    tracker = open_tracker(TrackerConfig(), folder, "run", {}, step - 10)
    longest = 0.0
    for each in range(step - 9, step + 1):
        began = time.monotonic()
        tracker.log(each, {"loss": 1 / each})
        longest = max(longest, time.monotonic() - began)
    while_running(tracker)
    tracker.finish(0)
    return tracker, longest


def steps_at(server):
    [rows] = server.history.values()
    return [row["_step"] for row in rows]


def heal(server):
    server.mood = "well"
    server.healed.set()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_what_a_server_does_not_take_is_kept_for_a_start_when_it_does(tmp_path, monkeypatch, capsys):
    with wandb_server("forbidding") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        tracker, longest = train_to(10, tmp_path)
        assert longest < 1
        assert "can't go online" in tracker.problem
        assert f"wandb sync {tmp_path}/wandb/offline-run-*" in tracker.problem
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("tracker: ") and "Training goes on" in line
        again, longest = train_to(20, tmp_path)
        assert longest < 1 and "can't send what earlier starts have kept" in again.problem
        heal(server)
        third, _ = train_to(30, tmp_path)
        assert third.problem is None
        assert steps_at(server) == list(range(1, 31))
        train_to(40, tmp_path)
        assert steps_at(server) == list(range(1, 41)), "what has been sent is not sent again"


@pytest.mark.parametrize("mood", ["failing", "hanging"])
def test_what_a_server_does_not_take_is_sent_at_the_end_if_it_does_by_then(tmp_path, monkeypatch, mood):
    with wandb_server(mood) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def heal_when_told(tracker):
            wait_for(lambda: tracker.problem)
            heal(server)

        tracker, longest = train_to(10, tmp_path, heal_when_told)
        assert longest < 1 and "can't go online" in tracker.problem
        assert steps_at(server) == list(range(1, 11))


@long
def test_a_server_that_hangs_in_the_middle_of_a_run_gets_the_rest_later(tmp_path, monkeypatch):
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def hang(tracker):
            wait_for(lambda: any(path.stat().st_size > 500 for path in tmp_path.glob("wandb/run-*/*.wandb")))
            server.mood = "hanging"

        monkeypatch.setattr(trackers, "INIT_SECONDS", 30.0)
        tracker, _ = train_to(10, tmp_path, hang)
        assert "the rest is kept and sent when the run is started again" in tracker.problem
        heal(server)
        monkeypatch.setattr(trackers, "SEND_SECONDS", 30)
        train_to(20, tmp_path)
        # wandb keeps its last rows in memory until its end, for which nobody waits for ever.
        steps = steps_at(server)
        assert steps[:8] == list(range(1, 9)) and steps[-10:] == list(range(11, 21)) and len(set(steps)) == len(steps)


@pytest.mark.parametrize("kept", ["../../escape", "a/b", "a b; touch PWNED", "", 7])
def test_an_id_that_leads_out_of_the_folder_is_replaced(tmp_path, kept):
    (tmp_path / "wandb.json").write_text(json.dumps({"id": kept}))
    chosen = trackers._run_id(tmp_path / "wandb.json")
    assert chosen == ("7" if kept == 7 else json.loads((tmp_path / "wandb.json").read_text())["id"])
    assert chosen == "7" or chosen != kept
