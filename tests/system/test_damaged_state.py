"""A run with damaged checkpoints goes on from the newest whole one, says which it left out, and never from zero."""

from __future__ import annotations

import json

from commands import python, read_rows, run_command
from small_runs import assert_one_line, assert_same_result, copied, learnt, train_command

from train.checkpoint.folder import verify_checkpoint


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def test_the_next_older_checkpoint_is_used_and_the_rejected_are_on_record(undisturbed, small_dataset, tmp_path):
    run = copied(undisturbed(1), tmp_path, 20)
    checkpoints = run / "checkpoints"
    flip_a_byte(checkpoints / "step-00000020" / "state-00000-of-00001.safetensors")
    (checkpoints / "step-00000018" / "manifest.json").unlink()
    (checkpoints / "step-00000016" / "trainer.json").write_text("{}")
    finished = run_command(train_command(small_dataset), tmp_path)
    assert finished.code == 0, finished.err
    assert "checkpoint step-00000020 is not used" in finished.err
    assert_same_result(run, undisturbed(1))
    rows = read_rows(run / "events.jsonl")
    rejected = [row for row in rows if row["kind"] == "checkpoint_rejected"]
    assert [row["checkpoint"] for row in rejected] == ["step-00000020", "step-00000018", "step-00000016"]
    assert "state-00000-of-00001.safetensors is damaged" in rejected[0]["problems"][0]
    assert [row["checkpoint"] for row in rows if row["kind"] == "resumed"] == ["step-00000014"]
    assert verify_checkpoint(checkpoints / "step-00000020") == [], "the damaged one was replaced on the way"


def test_when_every_checkpoint_is_damaged_nothing_starts_from_zero(undisturbed, small_dataset, tmp_path):
    run = copied(undisturbed(1), tmp_path, 4)
    for checkpoint in (run / "checkpoints").iterdir():
        flip_a_byte(checkpoint / "state-00000-of-00001.safetensors")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = assert_one_line(run_command(train_command(small_dataset), tmp_path), 1)
    assert "step-00000002" in line and "step-00000004" in line and "move that folder away" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_full_disk_fails_the_run_by_name_with_earlier_checkpoints_untouched(undisturbed, small_dataset, tmp_path):
    run = copied(undisturbed(1), tmp_path, 20)
    state = run / "checkpoints" / "step-00000020" / "state-00000-of-00001.safetensors"
    kilobytes = state.stat().st_size // 1024 - 100
    limited = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "limited", *train_command(small_dataset)]
    line = assert_one_line(run_command(limited, tmp_path), 1)
    assert "step-00000022 could not be saved" in line and "File too large" in line
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in range(2, 21, 2)]
    assert all(verify_checkpoint(run / "checkpoints" / name) == [] for name in names)
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert read_rows(run / "events.jsonl")[-1]["kind"] == "failed"


def test_training_data_damaged_in_place_is_never_trained_on(undisturbed, own_dataset, tmp_path):
    for shard in own_dataset.glob("train-*.tar"):
        flip_a_byte(shard)
    finished = run_command(train_command(own_dataset), tmp_path)
    line = assert_one_line(finished, 1)
    assert "train-00000" in line and "is damaged" in line and "headrace verify" in line
    assert learnt(tmp_path / "runs" / "run") == []


def test_verify_names_what_is_broken_in_a_run(undisturbed, tmp_path):
    run = copied(undisturbed(1), tmp_path, 4)
    verify = python("-m", "launch.command", "verify", f"source={run}")
    assert run_command(verify, tmp_path).code == 0
    flip_a_byte(run / "checkpoints" / "step-00000002" / "model.json")
    broken = run_command(verify, tmp_path)
    assert broken.code == 1
    assert "step-00000002/model.json is damaged" in broken.out
