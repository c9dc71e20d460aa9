"""A dataset in S3 is streamed as from a local folder, against a server that speaks S3."""

from __future__ import annotations

import itertools

import boto3
import pytest
import torch
from s3_server import s3_server

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import CacheConfig, DataConfig, open_dataset, open_training
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.object_store import filesystem
from data_pipeline.loader import Batch, Share, stream
from data_pipeline.storage.dataset_files import BadFile

pytestmark = pytest.mark.timeout(60)
LENGTH, BATCH = 32, 8


@pytest.fixture(scope="module")
def running():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(running, monkeypatch, many_shards):
    """A client of a store that holds the dataset under `s3://sets/web`."""
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    filesystem("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="sets")
    for path in many_shards.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="sets", Key=f"web/{path.relative_to(many_shards)}", Body=path.read_bytes())
    yield client
    filesystem("s3").clear_instance_cache()


@pytest.fixture
def cache(tmp_path) -> CacheConfig:
    return CacheConfig(str(tmp_path / "cache"), 1.0, 2)


def steps_of(location: str, cache: CacheConfig) -> list[Batch]:
    dataset = open_dataset(DataConfig(location, LENGTH, window=32, shards_together=2, cache=cache))
    sequences = open_training(dataset, 3, plan_segments(LENGTH, BATCH), 1000)
    steps = iter(stream(sequences, Share(BATCH), 0))
    try:
        return [batch for [batch] in itertools.islice(steps, sequences.per_epoch // BATCH)]
    finally:
        steps.close()


def test_the_stream_is_that_of_the_local_folder(bucket, many_shards, cache):
    here, there = steps_of(str(many_shards), cache), steps_of("s3://sets/web", cache)
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(here, there, strict=True))


def test_an_object_that_is_gone_or_another_stops_it_by_name(bucket, cache):
    bucket.put_object(Bucket="sets", Key="web/train-000004.tar", Body=b"something else")
    with pytest.raises(BadFile, match=r"s3://sets/web/train-000004\.tar has 14 bytes instead of"):
        steps_of("s3://sets/web", cache)
    bucket.delete_object(Bucket="sets", Key="web/train-000004.tar")
    with pytest.raises(BadFile, match=r"s3://sets/web/train-000004\.tar is not there"):
        steps_of("s3://sets/web", cache)


def test_what_is_no_dataset_is_named(bucket, cache):
    with pytest.raises(UserError, match=r"s3://sets/elsewhere/manifest\.json is not there"):
        open_dataset(DataConfig("s3://sets/elsewhere", cache=cache))


def test_a_store_that_can_not_be_reached_is_a_failure(bucket, cache, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Failure, match=r"s3://sets/web/manifest\.json can't be read: .*tried 9 times") as caught:
        open_dataset(DataConfig("s3://sets/web", cache=cache))
    assert "S3CRET" not in str(caught.value)
