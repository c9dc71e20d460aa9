"""A run whose folder is lost goes on from what was uploaded; one whose uploads fail goes on without."""

from __future__ import annotations

import json
import shutil

import boto3
from commands import read_rows, run_command
from s3_server import s3_server
from small_runs import STEPS, assert_one_line, final_state, learnt, train_command
from soak import long

from train.checkpoint.folder import list_checkpoints, verify_checkpoint


def test_a_run_whose_folder_is_lost_goes_on_from_s3_bit_for_bit(undisturbed, small_dataset, tmp_path):
    with s3_server() as environment:
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket="runs")
        upload = ("checkpoint.upload=s3://runs/team", "checkpoint.every=5", "checkpoint.keep=2")
        stopped = run_command(train_command(small_dataset, *upload, "stop_after=12"), tmp_path, **environment)
        assert stopped.code == 75, stopped.err
        keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="runs")["Contents"]}
        assert {key.split("/")[2] for key in keys} == {"step-00000010", "step-00000012"}
        run = tmp_path / "runs" / "run"
        uploaded = [row["step"] for row in read_rows(run / "events.jsonl") if row["kind"] == "checkpoint_uploaded"]
        assert {10, 12} <= set(uploaded) <= {5, 10, 12}  # the newest first, so that they may come in any order
        shutil.rmtree(run)
        # One bit of the newest is flipped on the server.
        damaged = "team/run/step-00000012/state-00000-of-00001.safetensors"
        data = bytearray(client.get_object(Bucket="runs", Key=damaged)["Body"].read())
        data[len(data) // 2] ^= 1
        client.put_object(Bucket="runs", Key=damaged, Body=bytes(data))
        finished = run_command(train_command(small_dataset, *upload), tmp_path, **environment)
    assert finished.code == 0, finished.err
    assert "checkpoint step-00000010 was fetched from s3://runs/team/run" in finished.err
    assert "step-00000012 is not used: s3://runs/team/run/step-00000012/state-00000" in finished.err
    rows = read_rows(run / "events.jsonl")
    assert [row["kind"] for row in rows][:3] == ["checkpoint_rejected", "checkpoint_fetched", "resumed"]
    assert learnt(run) == learnt(undisturbed(1))[10:]
    assert final_state(run) == final_state(undisturbed(1))
    assert "S3CRET" not in finished.err + "".join(path.read_text() for path in run.glob("*.*"))


@long
def test_uploads_that_fail_are_told_and_stop_nothing(undisturbed, small_dataset, tmp_path):
    (tmp_path / "elsewhere").write_text("no folder")
    more = ("checkpoint.upload=elsewhere", "checkpoint.every=10")
    # At the start the place is asked what there is to go on from, and there it must be one.
    run = shutil.copytree(undisturbed(1), tmp_path / "runs" / "run")
    for checkpoint in list_checkpoints(run / "checkpoints"):
        if checkpoint.name != "step-00000020":
            shutil.rmtree(checkpoint)
    finished = run_command(train_command(small_dataset, *more), tmp_path)
    assert finished.code == 0, finished.err
    failed = [row for row in read_rows(run / "events.jsonl") if row["kind"] == "checkpoint_upload_failed"]
    assert {row["step"] for row in failed} >= {STEPS} and all("elsewhere" in row["reason"] for row in failed)
    assert final_state(run) == final_state(undisturbed(1))


@long
def test_the_best_stay_and_each_says_what_it_was_validated_at(undisturbed, small_dataset, tmp_path):
    more = ("checkpoint.every=5", "checkpoint.keep=1", "checkpoint.keep_every=20", "checkpoint.keep_best=1")
    finished = run_command(train_command(small_dataset, *more), tmp_path)
    assert finished.code == 0, finished.err
    run = tmp_path / "runs" / "run"
    losses = {row["step"]: row["validation_loss"] for row in learnt(run) if row["validation_loss"] is not None}
    saved = {int(path.name[5:]): path for path in list_checkpoints(run / "checkpoints")}
    assert sorted(saved) == sorted({20, 40, min(losses, key=lambda step: (losses[step], step))})
    for step, path in saved.items():
        assert json.loads((path / "trainer.json").read_text())["validation_loss"] == losses.get(step)
        assert verify_checkpoint(path) == []
    rows = read_rows(run / "metrics.jsonl")
    assert all(row["checkpoint_stall_seconds"] >= 0 for row in rows)
    assert sum(row["checkpoint_stall_seconds"] > 0 for row in rows) >= 7


def test_rules_that_can_keep_nothing_are_refused(small_dataset, tmp_path):
    for more, said in {
        "checkpoint.keep_every=3": "must be a multiple of checkpoint.every=2",
        "checkpoint.upload=https://host/x": "can't be written to",
    }.items():
        assert said in assert_one_line(run_command(train_command(small_dataset, more), tmp_path), 2)
