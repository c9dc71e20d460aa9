"""Whole commands on a dataset at a URL: they do what they do on a local folder, or say what they can't."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from commands import kill_all, read_rows, run_command, start_command, torchrun, wait_until
from file_server import FileServer, file_server
from small_data import make_dataset, walking_texts
from small_runs import SETTINGS, STEPS, assert_same_result, events, final_state, learnt, rows_done, train_command
from soak import long

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import CacheConfig, DataConfig, open_dataset, open_training
from data_pipeline.inspect import InspectConfig, inspect
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.__main__ import VERB as TRAIN
from train.evaluate.text import split_text
from train.verify import VERB as VERIFY


@pytest.fixture
def server():
    with file_server() as running:
        yield running


@pytest.fixture
def url(server: FileServer, small_dataset: Path) -> str:
    return server.serve_folder("web", small_dataset)


@long
def test_killed_and_started_again_every_bit_is_that_of_the_local_run(undisturbed, url, small_dataset, tmp_path):
    command = train_command(url, f"data.cache.folder={tmp_path}/cache")
    process = start_command(command, tmp_path)
    try:
        wait_until(lambda: rows_done(tmp_path / "runs" / "run") >= 5, process)
    finally:
        kill_all(process)
    finished = run_command(command, tmp_path)
    assert finished.code == 0, finished.err
    run = tmp_path / "runs" / "run"
    assert_same_result(run, undisturbed(1))
    assert "resumed" in events(run)
    for path in (small_dataset / "tokenizer").iterdir():
        assert (run / "checkpoints" / "step-00000040" / "tokenizer" / path.name).read_bytes() == path.read_bytes()


def test_two_ranks_leave_out_the_same_shard_and_do_so_when_they_go_on(server, tmp_path):
    dataset = make_dataset(tmp_path, walking_texts(30), shard_tokens=2048)
    location = server.serve_folder("web", dataset)
    opened = open_dataset(DataConfig(str(dataset), 32, window=8, shards_together=1))
    sequences = open_training(opened, 0, plan_segments(32, 8), STEPS)
    first, second, *_ = sequences.order.lines[0].windows(0, 0)
    record = sequences.store.shards[int(second[0])]
    del server.files[f"/web/{record.name}"]

    settings = (*SETTINGS, f"steps={STEPS}", "data.window=8", "data.shards_together=1", "data.bad_shards=leave_out")
    more = ("checkpoint.every=0", "validation.every=0", "batch.micro=4", f"data.path={location}")
    in_its_middle = (sequences.store.shards[int(first[0])].tokens + record.tokens // 2) // (8 * 32)
    runs = [["run.name=whole"], ["run.name=parted", f"stop_after={in_its_middle}"], ["run.name=parted"]]
    (tmp_path / "runs.json").write_text(json.dumps([[*settings, *more, *each] for each in runs]))
    script = str(Path(__file__).with_name("runs_in_one_process.py"))
    finished = run_command(torchrun(2, script, "runs.json"), tmp_path)
    assert finished.code == 0, finished.err

    whole, parted = (tmp_path / "runs" / name for name in ("whole", "parted"))
    assert in_its_middle + 5 < STEPS
    for run in (whole, parted):
        [told] = [row for row in read_rows(run / "events.jsonl") if row["kind"] == "shard_left_out"]
        assert (told["file"], told["step"], told["tokens"]) == (record.name, 1, record.tokens)
        assert f"{location}/{record.name} is not there" in told["reason"]
        assert told["sequences"] == record.tokens // 32
        trainer = json.loads((run / "checkpoints" / f"step-{STEPS:08d}" / "trainer.json").read_text())
        assert trainer["lost"] == [record.name]
    assert "resumed" in events(parted)
    rows = learnt(whole)
    assert len(rows) == STEPS and all(math.isfinite(row["loss"]) for row in rows)
    # Nothing is learnt from its tokens, nor from the first behind each run of them; from all others is.
    missing = STEPS * 8 * 32 - rows[-1]["tokens"]
    assert record.tokens <= missing <= 1.2 * record.tokens
    taught = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(rows)]
    assert 0 in taught, "no step was without any target"
    assert learnt(parted) == rows and final_state(parted) == final_state(whole)


def test_a_cache_too_small_is_refused_before_anything_is_started(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert TRAIN.main([f"data.path={url}", "data.cache.gigabytes=0.0001", "data.sequence_length=32", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "data.cache.gigabytes=0.0001 is too small" in error and "data.shards_together=16" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["data.cache.gigabytes=0", "data.cache.ahead=-1", "data.bad_shards=ignore"])
def test_settings_that_can_not_work_are_named(url, setting, capsys):
    assert TRAIN.main([f"data.path={url}", setting, "--dry-run"]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err


def test_verify_refuses_in_one_line(url, capsys):
    assert VERIFY.main([f"source={url}"]) == 2
    assert "verified where it lies" in capsys.readouterr().err


def test_inspect_shows_what_it_shows_of_the_local_folder(small_dataset, url):
    there, here = (inspect(InspectConfig(str(source), documents=4)) for source in (url, small_dataset))
    assert there.pop("dataset") == url and here.pop("dataset") == str(small_dataset)
    assert there == here


def test_a_split_is_scored_as_the_local_one(small_dataset, url, tmp_path):
    tokenizer, cache = load_tokenizer(small_dataset / "tokenizer"), CacheConfig(str(tmp_path))
    here, there = (
        split_text(open_dataset(DataConfig(str(at), cache=cache)), "train", tokenizer) for at in (small_dataset, url)
    )
    assert here.content == there.content and here.tokens.tolist() == there.tokens.tolist()
