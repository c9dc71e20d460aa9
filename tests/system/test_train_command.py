"""`headrace train` as a user meets it: what it leaves behind, how it ends, how it goes on."""

from __future__ import annotations

import json
import signal

import pytest
import yaml
from commands import REPOSITORY, kill_all, python, read_rows, run_command, start_command, wait_until
from small_runs import STEPS, assert_same_result, copied, events, learnt, rows_done, train_command
from soak import long


def test_a_finished_run_says_so_and_does_nothing_when_started_again(undisturbed, small_dataset, tmp_path):
    run = copied(undisturbed(1), tmp_path, STEPS)
    kept = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    rows = (run / "metrics.jsonl").read_bytes()
    again = run_command(train_command(small_dataset), tmp_path)
    assert again.code == 0
    assert f"finished at step {STEPS}" in again.err
    assert (run / "metrics.jsonl").read_bytes() == rows
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == kept


def test_a_run_folder_holds_every_file_and_its_contents_agree(undisturbed, small_dataset):
    run = undisturbed(1)
    expected = {"config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "events.jsonl", "samples.jsonl"}
    expected |= {"checkpoints", "summary.json", "report.html"}
    assert expected <= {path.name for path in run.iterdir()}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["steps"], config["model"]["width"], config["zero"]["stage"]) == (STEPS, 64, 0)
    dataset = json.loads((small_dataset / "manifest.json").read_text())
    assert config["dataset_fingerprint"] == dataset["fingerprint"]
    assert json.loads((run / "environment.json").read_text())["dataset_fingerprint"] == dataset["fingerprint"]
    assert f"steps={STEPS}" in yaml.safe_load((run / "overrides.yaml").read_text())
    rows = read_rows(run / "metrics.jsonl")
    keys = "step tokens loss learning_rate grad_norm tokens_per_second mfu data_wait_seconds checkpoint_stall_seconds"
    for key in [*keys.split(), "step_seconds", "memory_bytes", "time"]:
        assert all(row[key] is not None for row in rows), key
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["tokens"] for row in rows] == [8 * 32 * step for step in range(1, STEPS + 1)]
    assert [row["step"] for row in rows if "validation_loss" in row] == [15, 30, 40]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["loss"]) == ("finished", STEPS, rows[-1]["loss"])
    assert events(run)[0] == "started" and events(run)[-1] == "finished"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-{n:08d}" for n in range(2, 41, 2)]


def test_stop_after_leaves_with_75_and_the_run_goes_on_to_the_same_result(undisturbed, small_dataset, tmp_path):
    run = tmp_path / "runs" / "run"
    stopped = run_command(train_command(small_dataset, "stop_after=7"), tmp_path)
    assert stopped.code == 75, stopped.err
    assert rows_done(run) == 7 and (run / "checkpoints" / "step-00000007").is_dir()
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    # What a save leaves that is killed half-way is no checkpoint, and goes when the next one stands.
    half = run / "checkpoints" / "step-00000008.tmp"
    half.mkdir()
    (half / "state-00000-of-00001.safetensors").write_bytes(b"half")
    assert run_command(train_command(small_dataset, "checkpoint.keep=2"), tmp_path).code == 0
    assert_same_result(run, undisturbed(1))
    assert "resumed" in events(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000038", "step-00000040"]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(number, marks=long) for number in (signal.SIGINT, signal.SIGUSR1))]
)
def test_a_signal_ends_the_step_with_a_checkpoint_and_75(undisturbed, small_dataset, tmp_path, number):
    run = tmp_path / "runs" / "run"
    process = start_command(train_command(small_dataset, "checkpoint.every=0"), tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 3, process)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        kill_all(process)
    assert process.returncode == 75, error
    assert "Traceback" not in error
    last = read_rows(run / "events.jsonl")[-1]
    assert (last["kind"], last["reason"], last["step"]) == ("preempted", number.name, rows_done(run))
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{last['step']:08d}"]
    if number == signal.SIGTERM:
        assert run_command(train_command(small_dataset), tmp_path).code == 0
        assert_same_result(run, undisturbed(1))


@long
def test_a_second_signal_ends_a_save_at_once_and_the_checkpoint_before_is_good(undisturbed, small_dataset, tmp_path):
    assert run_command(train_command(small_dataset, "checkpoint.every=0", "stop_after=4"), tmp_path).code == 75
    run = tmp_path / "runs" / "run"
    script = (
        "import sys, time, train.__main__ as train; from train.checkpoint.part import Part;"
        "write = Part.write; Part.write = lambda *told: (write(*told), time.sleep(600));"
        "sys.exit(train.VERB.main(sys.argv[1:]))"
    )
    arguments = train_command(small_dataset, "checkpoint.every=0")[4:]
    process = start_command(python("-c", script, *arguments), tmp_path)
    try:
        wait_until(lambda: rows_done(run) >= 7, process)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: any((run / "checkpoints").glob("step-*.tmp/state-*")), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 75
    finally:
        kill_all(process)
    assert run_command(train_command(small_dataset), tmp_path).code == 0
    (resumed,) = [row for row in read_rows(run / "events.jsonl") if row["kind"] == "resumed"][1:]
    assert resumed["checkpoint"] == "step-00000004"
    assert_same_result(run, undisturbed(1))


def test_at_another_world_size_and_stage_the_run_goes_on_with_the_same_losses(undisturbed, small_dataset, tmp_path):
    run = copied(undisturbed(1), tmp_path, 20)
    moved = run_command(train_command(small_dataset, "zero=3", "batch.micro=4", ranks=2), tmp_path)
    assert moved.code == 0, moved.err
    after, before = learnt(run), learnt(undisturbed(1))
    assert after[:20] == before[:20] and after[20:] != before[20:]
    assert [row["loss"] for row in after] == pytest.approx([row["loss"] for row in before], abs=1e-4)
    assert after[-1]["validation_loss"] == pytest.approx(before[-1]["validation_loss"], abs=1e-4)


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(small_dataset, tmp_path):
    finished = run_command([*train_command(small_dataset), "--dry-run"], tmp_path)
    assert finished.code == 0
    assert "8 sequences × 32 tokens = 256 tokens a step (micro 2 × accumulation 4 × 1 ranks)" in finished.out
    assert list(tmp_path.iterdir()) == []
    as_json = run_command([*train_command(small_dataset), "--dry-run", "--json"], tmp_path)
    assert json.loads(as_json.out) == {"sequences": 8, "micro": 2, "accumulation": 4, "ranks": 1}


def imported(tmp_path, *arguments: str) -> set[str]:
    """Return the top-level packages that a command has imported when it ends."""
    code = (
        "import atexit, sys; sys.argv = ['headrace', *sys.argv[1:]];"
        "atexit.register(lambda: print('IMPORTED', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr));"
        "from launch.command import main; sys.exit(main())"
    )
    finished = run_command(python("-c", code, *arguments), tmp_path)
    assert finished.code == 0, finished.err
    return set(finished.err.split("IMPORTED", 1)[1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["prepare", "--help"], ["generate", "--help"]])
def test_help_waits_for_nothing(tmp_path, arguments):
    heavy = {"torch", "hydra", "deepspeed", "wandb", "tokenizers", "fastokens", "pyarrow", "webdataset", "transformers"}
    assert not imported(tmp_path, *arguments) & heavy


def test_a_dry_run_starts_neither_deepspeed_nor_wandb(small_dataset, tmp_path):
    packages = imported(tmp_path, *train_command(small_dataset)[3:], "tracker=wandb", "--dry-run")
    assert not packages & {"deepspeed", "wandb", "transformers"}


def test_every_verb_has_help(tmp_path):
    finished = run_command(python("-m", "launch.command", "--help"), tmp_path)
    assert finished.code == 0 and (REPOSITORY / "launch").is_dir()
    for verb in ("prepare", "train", "generate", "verify", "report"):
        assert f"  {verb} " in finished.out


def test_a_run_is_evaluated_on_tasks_and_asked_by_a_strategy(undisturbed, tmp_path):
    run = undisturbed(1)
    records = [{"text": f"the water of {place}", "label": n % 2} for n, place in enumerate(("mill", "river", "road"))]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    shared = "data: data.jsonl\nprompt: '{{ text }}'\n"
    (tmp_path / "choice.yaml").write_text(
        f"kind: multiple_choice\n{shared}choices: [slow, deep]\nindex: '{{{{ label }}}}'"
    )
    (tmp_path / "written.yaml").write_text(f"kind: generation\n{shared}answer: x\ntokens: 4")
    command = python(
        "-m", "launch.command", "evaluate", f"source={run}", "tasks=[choice.yaml,written.yaml]", "limit=2",
        "strategy=self_consistency", "strategy.samples=3", "output=result.json", "details=details.jsonl", "--json",
    )  # fmt: skip
    finished = run_command(command, tmp_path)
    assert finished.code == 0, finished.err
    result = json.loads(finished.out)
    assert result == json.loads((tmp_path / "result.json").read_text())
    choice, written = result["tasks"]
    assert [score["n"] for score in choice["scores"]] == [2, 2]
    assert written["strategy"]["samples"] == 3
    details = read_rows(tmp_path / "details.jsonl")
    assert [row["task"] for row in details] == ["choice"] * 2 + ["written"] * 2
    assert all(sum(row["votes"].values()) <= 3 for row in details[2:])

    command = python("-m", "launch.command", "generate", f"source={run}", "prompt=water?", "strategy=least_to_most")
    finished = run_command([*command, "tokens=6", "--json"], tmp_path)
    assert finished.code == 0, finished.err
    assert set(json.loads(finished.out)) == {"prompt", "text", "answer", "votes"}
