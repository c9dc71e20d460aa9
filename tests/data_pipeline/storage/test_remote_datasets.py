"""A dataset at a URL is streamed bit for bit as from a local folder, or the bad file is named; and room is kept."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import xxhash
from commands import python, start_command
from file_server import FileServer

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import (
    CacheConfig,
    DataConfig,
    check_cache,
    open_dataset,
    open_in_storage_order,
    open_training,
)
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.loader import Batch, Share, read_steps, stream
from data_pipeline.manifest import load_manifest
from data_pipeline.order import rank_share
from data_pipeline.sequences import Sequences
from data_pipeline.storage.dataset_files import BadFile

pytestmark = pytest.mark.timeout(60)
LENGTH, BATCH = 32, 8


def opened(location: str | Path, cache: CacheConfig | None = None, **more) -> Sequences:
    settings = {"window": 32, "shards_together": 2, **more}
    dataset = open_dataset(DataConfig(str(location), LENGTH, cache=cache or CacheConfig(), **settings))
    sequences = open_training(dataset, 3, plan_segments(LENGTH, BATCH), 1000)
    check_cache(dataset, sequences)
    return sequences


def steps_of(
    sequences: Sequences, epochs: float = 1.2, share: Share | None = None, first: int = 0
) -> list[list[Batch]]:
    steps = iter(stream(sequences, share or Share(BATCH), first, with_documents=True))
    try:
        return list(itertools.islice(steps, int(epochs * sequences.per_epoch / BATCH) - first))
    finally:
        steps.close()


def same(some: Sequence[list[Batch]], others: Sequence[list[Batch]]) -> bool:
    return all(
        torch.equal(one.tokens, other.tokens)
        and torch.equal(one.targets, other.targets)
        and (one.document_ends, one.numbers) == (other.document_ends, other.numbers)
        for one, other in zip(itertools.chain(*some), itertools.chain(*others), strict=True)
    )


@pytest.fixture(scope="module")
def local_steps(many_shards) -> list[list[Batch]]:
    return steps_of(opened(many_shards))


@pytest.fixture
def cache(tmp_path) -> CacheConfig:
    return CacheConfig(str(tmp_path / "cache"), 1.0, 2)


@pytest.fixture
def small_cache(many_shards, tmp_path) -> CacheConfig:
    """As small as may be: for the four shards that are needed at once where two are shuffled together."""
    ((_, _, size),) = opened(many_shards).needed_at_once()
    return CacheConfig(str(tmp_path / "cache"), size / 1e9, 2)


@pytest.fixture
def url(server: FileServer, many_shards) -> str:
    return server.serve_folder("web", many_shards)


def test_what_the_tests_need_is_there(many_shards):
    assert len(list(many_shards.glob("train-*.tar"))) >= 8


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
@pytest.mark.parametrize("ahead", [0, 3])
def test_the_stream_is_that_of_the_local_folder(many_shards, url, cache, packing, ahead):
    cache.ahead = ahead
    assert same(steps_of(opened(f"{url}/", cache, packing=packing)), steps_of(opened(many_shards, packing=packing)))


def test_a_step_in_the_middle_is_found_at_once_and_only_its_shards_are_fetched(
    server, url, cache, local_steps, monkeypatch
):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", BATCH * LENGTH)
    cache.ahead = 0
    middle = len(local_steps) // 2
    sequences = opened(url, cache)
    steps = iter(stream(sequences, Share(BATCH), middle, with_documents=True))
    assert same([next(steps)], [local_steps[middle]])
    steps.close()
    assert len([path for path in server.paths_asked if path.endswith(".tar")]) <= 4


def test_validation_is_that_of_the_local_folder(many_shards, url, cache):
    splits = [open_dataset(DataConfig(str(at), LENGTH, cache=cache)) for at in (many_shards, url)]
    ours, theirs = (open_in_storage_order(split, "validation") for split in splits)
    assert same(steps_of(ours, 1), steps_of(theirs, 1))


def test_whatever_breaks_the_stream_is_the_same(server, url, cache, local_steps):
    for path, served in server.files.items():
        served.faults = ["cut 500", "status 503", "stall 100" if "00002" in path else "cut 0", "cut 10", "status 500"]
    assert same(steps_of(opened(url, cache)), local_steps)


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("suffix", [".tar", ".idx"])
def test_bytes_flipped_once_are_fetched_again(server, url, cache, local_steps, suffix):
    for path, served in server.files.items():
        if path.endswith(suffix):
            served.content, served.later = flip_a_byte(served.content), [(served.content, '"2"')]
    assert same(steps_of(opened(url, cache)), local_steps)


def until_it_stops(sequences: Sequences) -> tuple[list[list[Batch]], BadFile]:
    steps, received = iter(stream(sequences, Share(BATCH), 0, with_documents=True)), []
    with pytest.raises(BadFile) as caught:
        for step in steps:
            received.append(step)
    return received, caught.value


def damage(server: FileServer, path: str, how: str) -> None:
    if how == "gone":
        del server.files[path]
    elif how == "unreachable":
        server.files[path].faults = ["status 503"] * 1000
    else:
        server.files[path].content = flip_a_byte(server.files[path].content)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("train-000004.tar", "flipped"),
        ("train-000004.tar", "unreachable"),
        ("train-000004.idx", "flipped"),
        ("train-000004.idx", "gone"),
    ],
)
def test_what_stays_bad_stops_the_stream_by_name_at_its_place(server, url, cache, local_steps, name, how, monkeypatch):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", BATCH * LENGTH)
    damage(server, f"/web/{name}", how)
    received, problem = until_it_stops(opened(url, cache))
    assert problem.name == name and f"/web/{name}" in str(problem)
    assert 0 < len(received) < len(local_steps)
    assert same(received, local_steps[: len(received)])


def test_a_shard_that_goes_away_in_mid_run_stops_it_by_name(server, url, cache, monkeypatch):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", BATCH * LENGTH)
    cache.ahead = 0
    steps = iter(stream(opened(url, cache), Share(BATCH), 0))
    next(steps)
    for path in [path for path in server.files if path.endswith(".tar")]:
        del server.files[path]
    with pytest.raises(BadFile, match=r"/web/train-0000\d\d\.tar is not there: the server answers 404"):
        list(steps)


def test_a_server_that_is_gone_for_a_while_is_waited_for(server, url, cache, local_steps, monkeypatch):
    monkeypatch.setattr("data_pipeline.foundation.remote.FIRST_WAIT_SECONDS", 0.01)
    sequences = opened(url, cache)
    away = [served for path, served in server.files.items() if path.endswith(".tar")]
    contents = [served.content for served in away]
    for served in away:
        served.faults = ["status 503"] * 10**6

    def come_back() -> None:
        for served, content in zip(away, contents):
            served.content, served.faults = content, []

    timer = threading.Timer(0.5, come_back)
    timer.start()
    assert same(steps_of(sequences), local_steps)
    timer.join()


def test_a_dataset_replaced_in_mid_run_is_never_mixed(server, url, cache, small_dataset, local_steps, monkeypatch):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", BATCH * LENGTH)
    cache.ahead = 0
    sequences = opened(url, cache)
    received = [*steps_of(sequences, epochs=0.1)]
    tokenizer = (sequences.store.files.folder / "tokenizer" / "tokenizer.json").read_bytes()
    server.serve_folder("web", small_dataset)
    more, problem = until_it_stops(opened_again := sequences)
    assert same(more, local_steps[: len(more)]) and len(more) >= len(received)
    assert "of another dataset" in str(problem) or "bytes instead of" in str(problem)
    # What a checkpoint copies is still the tokenizer of the dataset that was read.
    assert (opened_again.store.files.folder / "tokenizer" / "tokenizer.json").read_bytes() == tokenizer
    assert opened(url, cache).store.files.folder != sequences.store.files.folder


def test_many_shards_pass_through_a_small_cache_that_never_outgrows_its_limit(
    url, small_cache, local_steps, watched, server, monkeypatch
):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", 4 * BATCH * LENGTH)  # less than a window of shards
    sequences = opened(url, small_cache)
    with watched(Path(small_cache.folder) / "shards") as sums:
        assert same(steps_of(sequences), local_steps)
    assert len(sums) > 20
    assert 0.5 * small_cache.gigabytes * 1e9 < max(sums) <= small_cache.gigabytes * 1e9
    assert len(set(server.paths_asked)) >= 20


def test_what_comes_next_is_fetched_while_it_is_not_yet_needed(server, url, cache, monkeypatch):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", BATCH * LENGTH)
    sequences = opened(url, cache)
    steps = iter(stream(sequences, Share(BATCH), 0))
    next(steps)
    window, following, *_ = sequences.order.lines[0].windows(0, 0)
    wanted = {sequences.store.shards[shard].tar.xxh3_128 for shard in (*window, *following)}
    deadline = time.monotonic() + 30
    folder = Path(cache.folder) / "shards"
    while not wanted <= {path.name for path in folder.iterdir()} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wanted <= {path.name for path in folder.iterdir()}
    steps.close()
    # Every file was asked for once, whoever was faster.
    asked = [path for path in server.paths_asked if path.endswith((".tar", ".idx"))]
    assert len(asked) == len(set(asked))


def test_what_fails_ahead_is_not_told_until_it_is_needed(server, url, cache, local_steps):
    for path, served in server.files.items():
        if path.endswith(".tar"):
            served.faults = ["status 404"]  # for whoever comes first, which is mostly not the reader
    sequences = opened(url, cache)
    cached = sequences.store.files
    cached.want("train", [record.tar for record in sequences.store.shards])
    deadline = time.monotonic() + 30
    while any(served.faults for path, served in server.files.items() if "/train" in path and path.endswith(".tar")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert same(steps_of(sequences), local_steps)


READER = """
import json, sys
import numpy as np, xxhash
from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import CacheConfig, DataConfig, open_dataset, open_training
from data_pipeline.order import rank_share
url, rank, *caches = sys.argv[1:]
print("ready", flush=True)
for folder, gigabytes in zip(caches[::2], caches[1::2]):
    sys.stdin.readline()
    config = DataConfig(url, 32, window=32, shards_together=2, cache=CacheConfig(folder, float(gigabytes), 2))
    sequences = open_training(open_dataset(config), 3, plan_segments(32, 8), 1000)
    digest = xxhash.xxh3_128()
    for step in range(sequences.per_epoch // 8):
        mine = rank_share(sequences.order.steps.numbers(step), int(rank), 2)
        digest.update(sequences.read(np.arange(mine.start, mine.stop)).tokens.tobytes())
    sequences.store.expect([], [])
    print(digest.hexdigest(), flush=True)
"""


def test_two_processes_share_a_cache_large_or_small(
    server, url, cache, small_cache, local_steps, watched, tmp_path, many_shards
):
    cache.folder = str(tmp_path / "large")
    arguments = [word for each in (cache, small_cache) for word in (str(each.folder), repr(each.gigabytes))]
    processes = [
        start_command(python("-c", READER, url, str(rank), *arguments), tmp_path, asked=True) for rank in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    local = opened(many_shards)
    steps = [local.order.steps.numbers(step) for step in range(local.per_epoch // BATCH)]
    expected = []
    for rank in range(2):
        rows = [read_steps(local, [rank_share(step, rank, 2)], False).tokens.tobytes() for step in steps]
        expected.append(xxhash.xxh3_128_hexdigest(b"".join(rows)))
    for used in (cache, small_cache):
        server.paths_asked.clear()
        Path(used.folder).mkdir(exist_ok=True)
        with watched(Path(used.folder) / "shards") as sums:
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            assert [process.stdout.readline().strip() for process in processes] == expected
        assert max(sums) <= used.gigabytes * 1e9
        asked = [path for path in server.paths_asked if path.endswith((".tar", ".idx"))]
        assert used is small_cache or len(asked) == len(set(asked))
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]


class TestDescription:
    def test_tokenizer_and_manifest_are_copied_whole(self, many_shards, url, cache):
        dataset = open_dataset(DataConfig(url, cache=cache))
        assert dataset.manifest == load_manifest(many_shards)
        names = {path.name for path in (many_shards / "tokenizer").iterdir()}
        assert names == {path.name for path in (dataset.files.folder / "tokenizer").iterdir()}
        for name in names:
            copy = dataset.files.folder / "tokenizer" / name
            assert copy.read_bytes() == (many_shards / "tokenizer" / name).read_bytes()

    def test_a_copy_damaged_on_disk_is_mended(self, url, cache):
        path = open_dataset(DataConfig(url, cache=cache)).files.folder / "tokenizer" / "tokenizer.json"
        whole = path.read_bytes()
        path.write_bytes(b"junk")
        open_dataset(DataConfig(url, cache=cache))
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("name", ["manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
    def test_a_missing_part_is_named(self, server, url, cache, name):
        del server.files[f"/web/{name}"]
        with pytest.raises(UserError, match=f"{url}/{name} is not there"):
            open_dataset(DataConfig(url, cache=cache))

    def test_any_digit_flipped_in_a_manifest_is_noticed(self, server, url, cache):
        served = server.files["/web/manifest.json"]
        whole = served.content
        places = [at for at, byte in enumerate(whole) if chr(byte).isdigit()]
        record = whole.index(b'"shards"')
        counted = [
            at for at in places if at > record and whole.rfind(b'"tokens"', 0, at) == whole.rfind(b'"', 0, at) - 7
        ]
        for at in counted[::5]:
            served.content = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            with pytest.raises(UserError, match=r"manifest\.json is damaged"):
                open_dataset(DataConfig(url, cache=cache))

    @pytest.mark.parametrize("name", ["../../escape", "a" * 31, "A" * 32])
    def test_a_hash_that_is_none_leads_nowhere(self, server, url, cache, name):
        served = server.files["/web/manifest.json"]
        content = json.loads(served.content)
        content["shards"][0]["xxh3_128"] = name
        served.content = json.dumps(content).encode()
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            open_dataset(DataConfig(url, cache=cache))

    @pytest.mark.parametrize("extra", ["?token=S3CRET", "#S3CRET", "me:S3CRET@"])
    def test_credentials_are_refused_before_they_are_recorded(self, server, url, cache, extra):
        location = url.replace("://", f"://{extra}") if "@" in extra else url + extra
        with pytest.raises(UserError, match=r"without credentials.*~/\.netrc") as caught:
            open_dataset(DataConfig(location, cache=cache))
        assert "S3CRET" not in str(caught.value) and server.paths_asked == []

    @pytest.mark.parametrize("location", ["ftp://host/web", "pipe:touch made", "simplecache::http://host/web"])
    def test_other_schemes_are_refused(self, cache, location):
        with pytest.raises(UserError, match="http://, https://, s3://, gs://"):
            open_dataset(DataConfig(location, cache=cache))

    def test_a_file_url_is_the_folder(self, many_shards, local_steps):
        assert same(steps_of(opened(f"file://{many_shards}")), local_steps)


def test_a_cache_too_small_is_refused_with_the_numbers(many_shards, url, small_cache):
    needed = round(small_cache.gigabytes * 1e9)
    small_cache.gigabytes = (needed - 1) / 1e9
    with pytest.raises(UserError, match=rf"\(4, {needed:,} bytes\): raise it to .*data\.shards_together=2") as caught:
        opened(url, small_cache)
    small_cache.gigabytes = float(str(caught.value).split("raise it to ")[1].split(",")[0])
    opened(url, small_cache)


def test_a_shard_missing_locally_is_named_at_a_glance(many_shards, tmp_path):
    copy = Path(shutil.copytree(many_shards, tmp_path / "copy"))
    (copy / "train-000003.tar").unlink()
    with pytest.raises(Failure, match=r"train-000003\.tar is missing"):
        opened(copy).store.require_files()
