"""A server of wandb's that fails, forbids or hangs neither stops nor slows a run, and gets all of it later."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from soak import long
from wandb_server import wandb_server

from train.telemetry import trackers
from train.telemetry.trackers import TrackerConfig, open_tracker

STEPS = list(range(1, 11))


@pytest.fixture(autouse=True)
def logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setattr(trackers, "INIT_SECONDS", 2.0)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 12.0)


def run_of_ten_steps(folder, while_running=lambda: None):
    """Log ten steps; return the tracker, and the longest that a call took before the end."""
    tracker = open_tracker(TrackerConfig(), folder, "run", {}, 0)
    longest = 0.0
    for step in STEPS:
        began = time.monotonic()
        tracker.log(step, {"loss": 1 / step})
        longest = max(longest, time.monotonic() - began)
    while_running()
    tracker.finish(0)
    return tracker, longest


def synced_steps(server, folder, *arguments):
    """Send what is kept, as the message says; return the steps that have arrived."""
    command = [sys.executable, "-m", "wandb", "sync", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [rows] = server.history.values()
    return [row["_step"] for row in rows]


@pytest.mark.parametrize("mood", ["failing", "forbidding", "hanging"])
def test_what_a_server_does_not_take_is_kept_and_sent_later(tmp_path, monkeypatch, capsys, mood):
    with wandb_server(mood) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        tracker, longest = run_of_ten_steps(tmp_path)
        assert longest < 1
        assert "can't go online" in tracker.problem
        assert f"wandb sync {tmp_path}/wandb/offline-run-*" in tracker.problem
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("tracker: ") and "Training goes on" in line
        server.mood = "well"
        server.healed.set()
        assert synced_steps(server, tmp_path, *map(str, tmp_path.glob("wandb/offline-run-*"))) == STEPS


@long
def test_a_server_that_hangs_in_the_middle_of_a_run_gets_the_rest_later(tmp_path, monkeypatch):
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def hang():
            deadline = time.monotonic() + 60
            while not any(path.stat().st_size > 500 for path in tmp_path.glob("wandb/run-*/*.wandb")):
                assert time.monotonic() < deadline, "nothing has been recorded"
                time.sleep(0.02)
            server.mood = "hanging"

        monkeypatch.setattr(trackers, "INIT_SECONDS", 30.0)
        tracker, _ = run_of_ten_steps(tmp_path, hang)
        assert f"`wandb sync --no-skip-online {tmp_path}/wandb/run-*` sends it later" in tracker.problem
        server.mood = "well"
        server.healed.set()
        kept = [str(path) for path in tmp_path.glob("wandb/run-*")]
        # wandb keeps its last rows in memory until its end, for which nobody waits for ever.
        assert synced_steps(server, tmp_path, "--no-skip-online", *kept)[:8] == STEPS[:8]


@pytest.mark.parametrize("kept", ["../../escape", "a/b", "a b; touch PWNED", "", 7])
def test_an_id_that_leads_out_of_the_folder_is_replaced(tmp_path, kept):
    (tmp_path / "wandb.json").write_text(json.dumps({"id": kept}))
    chosen = trackers._run_id(tmp_path / "wandb.json")
    assert chosen == ("7" if kept == 7 else json.loads((tmp_path / "wandb.json").read_text())["id"])
    assert chosen == "7" or chosen != kept
