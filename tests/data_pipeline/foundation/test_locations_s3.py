"""Objects in S3 are found, read in parts and never mixed with a later version; against a server that speaks S3."""

from __future__ import annotations

import random

import boto3
import pytest
from s3_server import s3_server

from data_pipeline.foundation import remote
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.locations import Found, find, identity, open_location
from data_pipeline.foundation.object_store import filesystem

CONTENT = random.Random(0).randbytes(20_000_000)
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def running():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(running, monkeypatch):
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    filesystem("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="texts")
    for name in ("a/1.txt", "a/b/2.txt", "b[1].txt", "b1.txt"):
        client.put_object(Bucket="texts", Key=name, Body=name.encode())
    yield client
    filesystem("s3").clear_instance_cache()


def test_objects_are_found_in_order(bucket):
    assert find("s3://texts/**/*.txt") == [
        Found(f"s3://texts/{name}", len(name)) for name in ("a/1.txt", "a/b/2.txt", "b1.txt", "b[1].txt")
    ]
    assert [found.location for found in find("s3://texts/a/*.txt")] == ["s3://texts/a/1.txt"]
    assert [found.location for found in find("s3://texts/b[1].txt")] == ["s3://texts/b[1].txt"]
    assert find("s3://texts/c.txt") == find("s3://texts/c/*") == find("s3://texts/a") == find("s3://none/*") == []


def test_an_object_is_read_from_anywhere_and_identified(bucket):
    bucket.put_object(Bucket="texts", Key="big", Body=CONTENT)
    with open_location("s3://texts/big", 5) as file:
        assert file.read(1_000_000) == CONTENT[5:1_000_005]
        file.seek(15_000_000)
        assert file.read() == CONTENT[15_000_000:]
    before = identity("s3://texts/big")
    assert before == identity("s3://texts/big")
    bucket.put_object(Bucket="texts", Key="big", Body=CONTENT[::-1])
    assert identity("s3://texts/big") != before


def test_an_object_that_changes_while_it_is_read_is_never_mixed(bucket):
    bucket.put_object(Bucket="texts", Key="big", Body=CONTENT)
    with open_location("s3://texts/big") as file:
        file.read(1000)
        bucket.put_object(Bucket="texts", Key="big", Body=CONTENT[::-1])
        with pytest.raises(Failure, match="s3://texts/big has changed on the server"):
            file.read()


def test_an_object_that_goes_away_while_it_is_read_is_named(bucket):
    bucket.put_object(Bucket="texts", Key="big", Body=CONTENT)
    with open_location("s3://texts/big") as file:
        file.read(1000)
        bucket.delete_object(Bucket="texts", Key="big")
        with pytest.raises((Failure, UserError), match="s3://texts/big"):
            file.read()


@pytest.mark.parametrize("name", ["s3://texts/none.txt", "s3://none/a.txt"])
def test_what_is_missing_is_named(bucket, name):
    for action in (open_location, identity):
        with pytest.raises(UserError, match=f"{name} is not there"):
            action(name)


def test_a_bucket_that_cannot_be_is_named(bucket):
    with pytest.raises(UserError, match=r"s3://NO bucket!/a\.txt can't be asked for"):
        find("s3://NO bucket!/a.txt")


def test_missing_credentials_are_asked_for(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"s3://texts/a/1\.txt needs credentials.*FSSPEC_S3_ANON=true"):
        find("s3://texts/a/1.txt")


def test_a_store_that_cannot_be_reached_is_a_failure(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for action in (find, open_location, identity):
        with pytest.raises(Failure, match=r"s3://texts/a/1\.txt can't be read: .*tried 6 times") as caught:
            action("s3://texts/a/1.txt")
        assert "S3CRET" not in str(caught.value)
