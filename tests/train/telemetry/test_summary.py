import json
import math

import pytest

from train.telemetry.summary import figures, summarize


def write(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def step(number, time, **more):
    return {"step": number, "tokens": 100 * number, "time": time, "step_seconds": 2.0, "data_wait_seconds": 0.5, **more}


def a_resumed_run(folder):
    """Starts at 1000; trains steps 1 to 4 until 1018; is resumed at 1060; trains steps 5 to 8 until 1080."""
    metrics = [step(n, 1010 + 2 * n, loss=5.0 - n / 2, tokens_per_second=10.0 * n, mfu=0.4) for n in range(1, 5)]
    metrics += [step(n, 1062 + 2 * n, loss=5.0 - n / 2, tokens_per_second=10.0 * n, mfu=0.5) for n in range(5, 9)]
    metrics[3]["checkpoint_stall_seconds"] = 3.0
    metrics[3] |= {"validation_loss": 2.0, "validation_bits_per_byte": 0.9}
    metrics[7] |= {"validation_loss": 2.5, "validation_bits_per_byte": 1.1, "loss": 1.25}
    metrics[7]["validation_perplexity"] = math.exp(2.5)
    events = [{"kind": "started", "step": 0, "time": 1000}, {"kind": "resumed", "step": 4, "time": 1060}]
    write(folder, "metrics.jsonl", metrics)
    write(folder, "events.jsonl", [*events, {"kind": "finished", "step": 8, "time": 1080}])


def test_the_summary_counts_what_the_rows_say(tmp_path):
    a_resumed_run(tmp_path)
    summary = summarize(tmp_path, "finished", {"parent": None}, {"name": "nano"})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    expected = {
        "status": "finished",
        "steps": 8,
        "tokens": 800,
        "loss": 1.25,
        "best_loss": 1.25,
        "starts": 1,
        "resumes": 1,
    }
    expected |= {"validation_loss": 2.5, "best_validation_loss": 2.0, "bits_per_byte": 1.1, "tokens_per_second": 45.0}
    assert {key: summary[key] for key in expected} == expected
    assert summary["perplexity"] == pytest.approx(math.exp(2.5))
    assert summary["mfu"] == pytest.approx(0.45)
    assert (summary["lineage"], summary["model"]) == ({"parent": None}, {"name": "nano"})


def test_goodput_is_kept_seconds_over_wall_seconds_with_the_restart_in_it(tmp_path):
    a_resumed_run(tmp_path)
    summary = summarize(tmp_path, "finished", {}, {})
    assert summary["goodput"] == pytest.approx(8 * 2.0 / 80)
    seconds = summary["seconds"]
    # The last kept step before the resume ended at 1018; start-up and the rest is what no other part explains.
    assert seconds["interrupted"] == pytest.approx(1060 - 1018)
    parts = {
        "wall": 80,
        "computing": 12,
        "data_wait": 4,
        "checkpoint_stall": 3,
        "interrupted": 42,
        "other": 80 - 16 - 3 - 42,
    }
    assert seconds == pytest.approx(parts)


def test_a_row_stands_for_the_steps_since_the_row_before(tmp_path):
    rows = [step(10, 1020), step(20, 1040), step(25, 1050)]
    summary = figures(rows, [{"kind": "started", "step": 0, "time": 1000}])
    assert summary["goodput"] == pytest.approx(25 * 2.0 / 50)


def test_what_was_not_measured_is_none_not_zero(tmp_path):
    write(tmp_path, "metrics.jsonl", [{"step": 1, "tokens": 5, "loss": None, "time": 1.0}])
    summary = summarize(tmp_path, "failed", {}, {})
    unknown = (
        "loss",
        "best_loss",
        "validation_loss",
        "perplexity",
        "bits_per_byte",
        "tokens_per_second",
        "mfu",
        "goodput",
    )
    assert {key: summary[key] for key in unknown} == dict.fromkeys(unknown)


def test_a_run_that_recorded_nothing_has_a_summary(tmp_path):
    summary = summarize(tmp_path, "failed", {}, {})
    assert (summary["status"], summary["steps"], summary["starts"], summary["goodput"]) == ("failed", 0, 0, None)
