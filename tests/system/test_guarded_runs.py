"""Bad numbers are skipped, rolled back behind and given up on, exactly alike however often the run is interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import python, read_rows, run_command, torchrun
from small_runs import SETTINGS, learnt
from soak import note

from train.checkpoint.folder import verify_checkpoint

STEPS, SEQUENCES = 90, 8
GUARDED = (
    *SETTINGS,
    f"steps={STEPS}",
    "batch.micro=4",
    "checkpoint.every=10",
    "validation.every=0",
    "guard.skips=4",
    "guard.warmup=20",
    "guard.window=20",
    "guard.replica_check_every=25",
)


def sequences(first: int, last: int) -> list[int]:
    """Return the range of the sequences of steps, counted from 1, the last one included."""
    return [(first - 1) * SEQUENCES, last * SEQUENCES]


TROUBLE = {"nan": [sequences(31, 31), sequences(65, 68)], "shuffled": [sequences(47, 47)]}
STOPS = (33, 66, 70)
"""After a skipped step; amid the bad steps, with a checkpoint that is not to be returned to; after the rollback."""


@dataclass(frozen=True)
class Guarded:
    """Runs in one process each, and how they ended; and those that two processes did."""

    folder: Path
    ends: list[Any]
    ends_of_two: list[Any]

    def events(self, name: str, *kinds: str) -> list[dict[str, Any]]:
        rows = read_rows(self.folder / "runs" / name / "events.jsonl")
        return [row for row in rows if row["kind"] in kinds]

    def note(self, name: str, trouble: str, begins: int, event: dict[str, Any], told: str, done: str) -> None:
        """Put into the soak's table what came of a trouble that begins with a step, and how long after that."""
        rows = read_rows(self.folder / "runs" / name / "metrics.jsonl")
        (ready,) = [row["time"] for row in rows if row["step"] == begins - 1]
        seconds = event["time"] - ready
        note("Troubles", trouble=trouble, seconds_to_detection=f"{seconds:.2f}", told=told, done=done)


@pytest.fixture(scope="module")
def guarded(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    folder = tmp_path_factory.mktemp("guarded")

    def typed(name: str, *more: str, **disturbance: Any) -> dict[str, Any]:
        return {"typed": [f"data.path={small_dataset}", f"run.name={name}", *GUARDED, *more], **disturbance}

    script = str(Path(__file__).with_name("disturbed_runs.py"))
    runs = [
        typed("whole", **TROUBLE),
        *(typed("parts", f"stop_after={step}", **TROUBLE) for step in STOPS),
        typed("parts", **TROUBLE),
        typed("hopeless", "guard.rollbacks=2", nan=[sequences(25, STEPS)]),
        typed("early", nan=[sequences(3, STEPS)]),
        typed(
            "rejecting",
            "steps=30",
            "checkpoint.asynchronous=false",
            nan=[sequences(25, 28)],
            damaging=[sequences(24, 24)],
        ),
        typed("limited", "time_limit=00:00:11"),
    ]
    ends = run_all(python(script), runs, folder)
    shutil.copytree(folder / "runs" / "parts", folder / "runs" / "moved")
    for checkpoint in (folder / "runs" / "moved" / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > STOPS[1]:
            shutil.rmtree(checkpoint)
    (folder / "runs" / "moved" / "events.jsonl").unlink()
    runs = [
        typed("two", "zero=2", slow=[sequences(2, STEPS)], **TROUBLE),
        typed("moved", "zero=3", "steps=90", **TROUBLE),
        typed("broken", "guard.rollbacks=0", "checkpoint.every=5", nan=[sequences(7, STEPS)], slow_disk=2.0),
    ]
    return Guarded(folder, ends, run_all(torchrun(2, script), runs, folder))


def run_all(command: list[str], runs: list[dict[str, Any]], folder: Path) -> list[Any]:
    (folder / "runs.json").write_text(json.dumps(runs))
    finished = run_command([*command, "runs.json", "results.json"], folder)
    assert finished.code == 0, finished.err
    return json.loads((folder / "results.json").read_text())


def test_a_bad_step_is_skipped_and_its_sequences_are_named(guarded):
    skipped = guarded.events("whole", "step_skipped")
    assert [event["step"] for event in skipped] == [31, 47, 65, 66, 67, 68]
    assert [event["sequences"] for event in skipped[:2]] == [[240, 247], [368, 375]]
    assert "the loss is nan" in skipped[0]["reason"]
    assert "deviations above its median" in skipped[1]["reason"]
    done = "the same step was skipped, its sequences named"
    guarded.note("whole", "a loss that is no number", 31, skipped[0], skipped[0]["reason"], done)
    guarded.note("whole", "text in disorder", 47, skipped[1], skipped[1]["reason"], done)


def test_after_bad_steps_in_a_row_the_weights_from_before_come_back_and_the_data_goes_on(guarded):
    (rolled_back,) = guarded.events("whole", "rolled_back")
    assert (rolled_back["step"], rolled_back["checkpoint"]) == (68, "step-00000060")
    assert rolled_back["sequences"] == [60 * SEQUENCES, 68 * SEQUENCES - 1]
    rows = learnt(guarded.folder / "runs" / "whole")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss"] is None for row in rows] == [row["step"] in (31, 65, 66, 67, 68) for row in rows]
    assert rows[-1]["tokens"] == STEPS * SEQUENCES * 32
    trainer = json.loads((guarded.folder / "runs/whole/checkpoints/step-00000090/trainer.json").read_text())
    # Of 90 steps two were skipped alone, and those from 61 to 68 are as if they had never been.
    assert trainer["optimizer_steps"] == STEPS - 2 - 8
    assert trainer["sequences"] == STEPS * SEQUENCES
    done = "weights of step 60 came back, the sequences of steps 61 to 68 were left behind, the data went on"
    guarded.note("whole", "four steps in a row without a number", 65, rolled_back, rolled_back["reason"], done)


def test_stopped_in_the_middle_of_trouble_and_started_again_every_bit_is_the_same(guarded):
    assert [code for code, _ in guarded.ends[:5]] == [0, 75, 75, 75, 0]
    whole, parts = (guarded.folder / "runs" / name for name in ("whole", "parts"))
    assert learnt(parts) == learnt(whole)
    final = [sorted((run / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")) for run in (whole, parts)]
    assert [path.read_bytes() for path in final[0]] == [path.read_bytes() for path in final[1]]
    kinds = ("step_skipped", "rolled_back")
    told = [
        [(e["kind"], e["step"], e["sequences"]) for e in guarded.events(run.name, *kinds)] for run in (whole, parts)
    ]
    assert told[0] == told[1]


def test_two_processes_skip_and_roll_back_alike_also_from_what_one_saved_in_the_middle(guarded):
    assert guarded.ends_of_two[:2] == [[0, ""], [0, ""]]
    losses = {
        name: [row["loss"] for row in learnt(guarded.folder / "runs" / name)] for name in ("whole", "two", "moved")
    }
    for name in ("two", "moved"):
        events = guarded.events(name, "step_skipped", "rolled_back")
        expected = guarded.events("whole", "step_skipped", "rolled_back")[-len(events) :]
        assert [(e["kind"], e["step"], e["sequences"]) for e in events] == [
            (e["kind"], e["step"], e["sequences"]) for e in expected
        ]
        assert len(events) == {"two": 7, "moved": 3}[name]
        pairs = list(zip(losses[name], losses["whole"]))
        assert all((mine is None) == (theirs is None) for mine, theirs in pairs)
        numbers = [pair for pair in pairs if None not in pair]
        assert [mine for mine, _ in numbers] == pytest.approx([theirs for _, theirs in numbers], abs=2e-3)


def test_trouble_that_stays_goes_further_back_each_time_and_ends_the_run_with_the_reason(guarded):
    code, message = guarded.ends[5]
    assert code == 1
    assert "up to step 36: the loss is nan; the run has rolled back 2 times" in message
    checkpoints = [event["checkpoint"] for event in guarded.events("hopeless", "rolled_back")]
    assert checkpoints == ["step-00000020", "step-00000010"]
    (failed,) = guarded.events("hopeless", "failed")
    guarded.note("hopeless", "numbers that stay bad", 25, failed, message, "two rollbacks, then exit 1")


def test_without_a_checkpoint_from_before_the_run_ends(guarded):
    code, message = guarded.ends[6]
    assert code == 1 and "up to step 6: the loss is nan; there is no good checkpoint" in message
    assert "optimizer.learning_rate" in message


def test_a_checkpoint_that_a_rollback_rejects_is_on_record(guarded):
    assert guarded.ends[7] == [0, ""]
    rejected, rolled_back = guarded.events("rejecting", "checkpoint_rejected", "rolled_back")
    assert (rejected["checkpoint"], rejected["step"]) == ("step-00000020", 28)
    assert "model.json is missing" in rejected["problems"][0]
    assert rolled_back["checkpoint"] == "step-00000010"


def test_ranks_that_give_up_together_publish_what_they_were_saving(guarded):
    code, message = guarded.ends_of_two[2]
    assert code == 1 and "up to step 10: the loss is nan" in message
    saved, failed = guarded.events("broken", "checkpoint_saved", "failed")
    assert (saved["checkpoint"], failed["step"]) == ("step-00000005", 10)
    assert verify_checkpoint(guarded.folder / "runs/broken/checkpoints/step-00000005") == []


def test_a_time_limit_leaves_with_a_checkpoint_and_75(guarded):
    assert guarded.ends[8] == [75, ""]
    (last,) = guarded.events("limited", "preempted")
    assert last["reason"] == "time_limit=00:00:11 is near"
    assert last["step"] < STEPS
    assert (guarded.folder / "runs/limited/checkpoints" / f"step-{last['step']:08d}").is_dir()


def test_a_slow_rank_is_named_and_a_rank_alone_never(guarded):
    # On a busy machine the other rank may be slow for a while too, and is then named as rightly.
    (slow,) = [event for event in guarded.events("two", "straggler") if event["rank"] == 1][:1]
    told = f"rank 1 takes {slow['ratio']} times as long"
    guarded.note(
        "two", "a rank 30 ms slower in each step", 2, slow, told, "named at the next judgement, every 32 steps"
    )
    assert slow["ratio"] > 1.5 and slow["seconds"] > 0.03
    assert "straggler" in (guarded.folder / "runs/two/report.html").read_text()
    assert guarded.events("whole", "straggler") == []
