"""Checkpoints elsewhere, on a server that speaks S3 and in a plain folder: whole or not there, and back again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import boto3
import pytest
from checkpoints import FILES, publish, steps_in
from s3_server import s3_server

from data_pipeline.foundation import remote as servers
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.object_store import filesystem
from data_pipeline.foundation.places import Place, check_place
from train.checkpoint.folder import verify_checkpoint
from train.checkpoint.remote import RemoteCheckpoints
from train.checkpoint.retention import Retention
from train.checkpoint.upload import Uploader

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def running():
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["s3", "folder"])
def location(request, running, monkeypatch, tmp_path):
    if request.param == "folder":
        yield str(tmp_path / "elsewhere")
        return
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(servers, "FIRST_WAIT_SECONDS", 0.001)
    filesystem("s3").clear_instance_cache()
    bucket = boto3.resource("s3").create_bucket(Bucket="runs")
    bucket.objects.all().delete()
    yield "s3://runs/team"
    filesystem("s3").clear_instance_cache()


def damaged(location: str, name: str, folder: Path) -> None:
    """Flip a bit of a file that lies elsewhere."""
    with Place(location).open(name) as file:
        data = bytearray(file.read())
    data[len(data) // 2] ^= 1
    (folder / "damaged").write_bytes(data)
    Place(location).put(folder / "damaged", name)


def test_what_is_sent_is_there_and_comes_back_byte_for_byte(location, tmp_path):
    remote, checkpoint = RemoteCheckpoints(location, "run"), publish(tmp_path / "here", 7)
    assert not remote.has(checkpoint) and remote.steps() == {}
    remote.send(checkpoint)
    assert remote.has(checkpoint) and list(remote.steps()) == [7]
    fetched = RemoteCheckpoints(location, "run").fetch_newest(tmp_path / "there", "configuration")
    assert fetched.rejected == [] and fetched.checkpoint == tmp_path / "there" / checkpoint.name
    assert verify_checkpoint(fetched.checkpoint) == []
    for name in (*FILES, "manifest.json"):
        assert (fetched.checkpoint / name).read_bytes() == (checkpoint / name).read_bytes()
    assert steps_in(tmp_path / "there") == [7]


@pytest.mark.parametrize("name", ["state-00001-of-00002.safetensors", "trainer.json", "manifest.json"])
def test_what_is_damaged_there_is_named_and_the_next_older_fetched(location, tmp_path, name):
    remote = RemoteCheckpoints(location, "run")
    for step in (5, 7):
        remote.send(publish(tmp_path / "here", step))
    damaged(location, f"run/step-00000007/{name}", tmp_path)
    again = RemoteCheckpoints(location, "run")
    fetched = again.fetch_newest(tmp_path / "there", "configuration")
    assert fetched.checkpoint == tmp_path / "there" / "step-00000005"
    [(rejected, [problem])] = fetched.rejected
    assert rejected.name == "step-00000007" and f"run/step-00000007/{name}" in problem and "damaged" in problem
    assert not again.has(tmp_path / "here" / "step-00000007")
    again.send(tmp_path / "here" / "step-00000007")
    assert again.has(tmp_path / "here" / "step-00000007")
    assert again.fetch_newest(tmp_path / "there", "configuration").rejected == []


@pytest.mark.parametrize("name", ["state-00001-of-00002.safetensors", "trainer.json", "manifest.json"])
def test_what_is_missing_there_makes_it_no_checkpoint(location, tmp_path, name):
    remote, checkpoint = RemoteCheckpoints(location, "run"), publish(tmp_path / "here", 7)
    remote.send(checkpoint)
    Place(location).remove(f"run/step-00000007/{name}")
    again = RemoteCheckpoints(location, "run")
    assert not again.has(checkpoint)
    fetched = again.fetch_newest(tmp_path / "there", "configuration")
    assert fetched.checkpoint is None and name in fetched.rejected[0][1][0]


def test_the_rules_hold_there_and_broken_sendings_go(location, tmp_path):
    remote = RemoteCheckpoints(location, "run")
    for step, loss in {1: 3.0, 2: 2.0, 3: 2.5, 4: None, 5: None, 6: None}.items():
        remote.send(publish(tmp_path / "here", step, loss))
    Place(location).remove("run/step-00000003/manifest.json")
    Place(location).remove("run/step-00000006/model.json")
    assert remote.remove_old(Retention(1, every=4, best=1), until=6) == [1, 3]
    assert list(remote.steps()) == [2, 4, 5, 6], "5 is the newest whole one"


def test_another_runs_checkpoint_is_refused(location, tmp_path):
    RemoteCheckpoints(location, "run").send(publish(tmp_path / "here", 7))
    with pytest.raises(UserError, match="is of a run with other settings or data"):
        RemoteCheckpoints(location, "run").fetch_newest(tmp_path / "there", "of another")
    assert RemoteCheckpoints(location, "another").fetch_newest(tmp_path / "there", "x").checkpoint is None


def test_the_uploader_sends_each_and_keeps_there_what_the_rules_keep(location, tmp_path):
    folder = tmp_path / "here"
    uploader = Uploader(RemoteCheckpoints(location, "run"), folder, Retention(2))
    for step in (1, 2, 3):
        uploader.published(publish(folder, step))
    uploader.finish()
    assert sorted((sent.step, sent.problem) for sent in uploader.news()) == [(1, None), (2, None), (3, None)]
    assert list(RemoteCheckpoints(location, "run").steps()) == [2, 3]
    again = Uploader(RemoteCheckpoints(location, "run"), folder, Retention(2))
    again.published(folder / "step-00000003")
    again.finish()
    assert [sent.step for sent in again.news()] == [1], "which the rules keep here alone"


def test_what_is_damaged_here_is_not_sent(location, tmp_path):
    uploader = Uploader(RemoteCheckpoints(location, "run"), tmp_path / "here", Retention(0))
    checkpoint = publish(tmp_path / "here", 1)
    (checkpoint / "model.json").write_text("{}")
    uploader.published(checkpoint)
    uploader.finish()
    [sent] = uploader.news()
    assert "model.json has 2 bytes instead of" in sent.problem
    assert RemoteCheckpoints(location, "run").steps() == {}


def test_what_could_not_be_sent_is_told_and_sent_with_the_next(location, tmp_path, monkeypatch):
    if location.startswith("s3"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    else:
        Path(location).write_text("no folder")
    folder = tmp_path / "here"
    uploader = Uploader(RemoteCheckpoints(location, "run"), folder, Retention(0))
    uploader.published(publish(folder, 1))
    while not (news := uploader.news()):
        time.sleep(0.01)
    assert news[0].step == 1 and "run" in news[0].problem and "S3CRET" not in news[0].problem
    if location.startswith("s3"):
        return  # fsspec holds on to the server that it has once been given
    Path(location).unlink()
    uploader.published(publish(folder, 2))
    uploader.finish()
    assert [(sent.step, sent.problem) for sent in uploader.news()] == [(2, None), (1, None)]
    assert list(RemoteCheckpoints(location, "run").steps()) == [1, 2]


def test_a_place_that_is_away_stops_a_run_that_has_nothing_else_to_go_on_from(location, tmp_path, monkeypatch):
    if not location.startswith("s3"):
        pytest.skip("a folder is never away")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Failure, match=r"can't be listed: .*tried 6 times"):
        RemoteCheckpoints(location, "run").fetch_newest(tmp_path, "configuration")


@pytest.mark.parametrize("location", ["https://host/folder", "pipe:cat", "s3://", "http://host"])
def test_what_can_not_be_written_to_is_refused(location):
    with pytest.raises(UserError):
        check_place(location)


def test_a_plain_copy_is_as_good(tmp_path):
    checkpoint = publish(tmp_path / "here", 1)
    shutil.copytree(checkpoint, tmp_path / "elsewhere" / "run" / "step-00000001")
    assert RemoteCheckpoints(str(tmp_path / "elsewhere"), "run").has(checkpoint)
