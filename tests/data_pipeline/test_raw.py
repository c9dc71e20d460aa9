"""Shards of raw text stream as they come: every document of every shard, whole, in an order of chance."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_corpus import generated_texts

from data_pipeline.curriculum import RampConfig, plan_segments
from data_pipeline.dataset import DataConfig, check_data
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.loader import Batch, Share
from data_pipeline.raw import RawText
from data_pipeline.raw_settings import RawConfig
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.encoding import FastEncoder

TEXTS = generated_texts(240)
TOKENIZER = train_tokenizer(TEXTS, BpeConfig(400))
LENGTH, BATCH = 32, 4


def write_tar(path: Path, texts: list[str], kind: str = "txt") -> None:
    with tarfile.open(path, "w") as archive:
        for number, text in enumerate(texts):
            content = (json.dumps({"text": text}) if kind == "json" else text).encode()
            member = tarfile.TarInfo(f"{number:05d}.{kind}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for number in range(4):
        write_tar(folder / f"{number}.tar", TEXTS[number::4], ("txt", "json")[number % 2])
    return folder


def raw(folder: Path, seed: int = 0, **settings) -> RawText:
    segments = plan_segments(LENGTH, BATCH, batch_ramp=settings.pop("batch_ramp", RampConfig()))
    return RawText(RawConfig([f"{folder}/*.tar"], **settings), TOKENIZER, segments, seed)


def take(text: RawText, share: Share, first_step: int, steps: int) -> list[list[Batch]]:
    iterator = iter(text.stream(share, first_step))
    try:
        return list(itertools.islice(iterator, steps))
    finally:
        iterator.close()


def documents_of(steps: list[list[Batch]]) -> list[str]:
    """Cut what was delivered back into documents; the last one may be cut short."""
    line = torch.cat([batch.tokens.flatten() for step in steps for batch in step]).tolist()
    ends = [at for at, token in enumerate(line) if token == TOKENIZER.end_of_document]
    return [TOKENIZER.decode(line[start:stop]) for start, stop in itertools.pairwise([0, *(end + 1 for end in ends)])]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_document_comes_once_a_pass_and_each_rank_has_its_own(shards, ranks):
    steps = 2 * sum(len(TOKENIZER.encode(text)) + 1 for text in TEXTS) // (LENGTH * BATCH)
    seen: Counter[str] = Counter()
    for rank in range(ranks):
        documents = documents_of(take(raw(shards, buffer=1), Share(1, rank, ranks), 0, steps))
        seen.update(text.removesuffix("<|endoftext|>") for text in documents[: len(TEXTS) // ranks])
    assert seen == Counter(TEXTS)


def test_rows_are_cut_from_one_line(shards):
    steps = take(raw(shards), Share(BATCH), 0, 50)
    rows = torch.cat([torch.cat((batch.tokens, batch.targets[:, -1:]), dim=1) for [batch] in steps])
    assert torch.equal(rows[1:, 0], rows[:-1, -1])
    for [batch] in steps:
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        for row, ends in zip(batch.tokens.tolist(), batch.document_ends):
            expected = [at + 1 for at, token in enumerate(row[:-1]) if token == TOKENIZER.end_of_document]
            assert ends == [*expected, LENGTH]


def test_documents_are_shuffled_and_each_seed_and_start_is_another_order(shards):
    orders = {
        tuple(documents_of(take(raw(shards, seed), Share(BATCH), first, 30))) for seed in (0, 1) for first in (0, 7)
    }
    assert len(orders) == 4
    assert documents_of(take(raw(shards), Share(BATCH), 0, 30)) == documents_of(take(raw(shards), Share(BATCH), 0, 30))
    (one, *_) = orders
    places = [
        TEXTS.index(text.removesuffix("<|endoftext|>")) for text in one if text.removesuffix("<|endoftext|>") in TEXTS
    ]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.5


def test_batches_may_grow_on_the_way(shards):
    text = raw(shards, batch_ramp=RampConfig(2, 640, 1))
    sizes = [sum(len(batch.tokens) for batch in step) for step in take(text, Share(2), 0, 20)]
    assert sizes == [2] * 10 + [4] * 10


def test_a_fast_encoder_that_goes_wrong_on_the_way_is_left(shards, monkeypatch, capsys):
    expected = documents_of(take(raw(shards), Share(BATCH), 0, 60))
    monkeypatch.setattr("data_pipeline.raw.why_not_fast", lambda tokenizer, texts: None)
    honest = FastEncoder._encode
    monkeypatch.setattr(FastEncoder, "_encode", lambda self, texts: [ids[::-1] for ids in honest(self, texts)])
    assert documents_of(take(raw(shards), Share(BATCH), 0, 60)) == expected
    assert "encoding with tokenizers from here on" in capsys.readouterr().err


def test_what_can_not_be_streamed_is_named(shards, tmp_path):
    with pytest.raises(UserError, match=r"data\.raw\.paths: 4 shards can't be divided among 5 ranks"):
        raw(shards).stream(Share(1, 0, 5), 0)
    with pytest.raises(UserError, match="no file matches"):
        raw(tmp_path)
    write_tar(tmp_path / "a.tar", ["", " "])
    with pytest.raises(Failure, match="has found no text"):
        take(raw(tmp_path), Share(1), 0, 1)


@pytest.mark.parametrize("sequences", [None, 3])
def test_what_is_measured_on_is_the_first_of_the_named_files_and_stays(shards, sequences):
    held_out = raw(shards, validation=[f"{shards}/1.tar"]).held_out(LENGTH, sequences)
    ids = [id for text in TEXTS[1::4] for id in (*TOKENIZER.encode(text), TOKENIZER.end_of_document)]
    assert held_out.per_epoch >= 3 and held_out.per_epoch == (sequences or (len(ids) - 1) // LENGTH)
    last = held_out.per_epoch - 1
    for numbers in (np.array([0, last]), np.array([last, 1, 0])):
        rows = held_out.read(numbers, with_documents=True)
        for row, ends, number in zip(rows.tokens.tolist(), rows.document_ends, numbers):
            line = ids[number * LENGTH : (number + 1) * LENGTH + 1]
            assert row == line
            ended = [at + 1 for at, id in enumerate(line[:-2]) if id == TOKENIZER.end_of_document]
            assert ends == [*ended, LENGTH]
    assert held_out.read(np.array([0])).document_ends is None


def test_without_named_files_nothing_is_measured_on_and_less_than_a_sequence_is_refused(shards, tmp_path):
    assert raw(shards).held_out(LENGTH, None) is None
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(UserError, match=r"data\.raw\.validation: \d+ tokens are less than one sequence of 32 \+ 1"):
        raw(shards, validation=[f"{tmp_path}/short.txt"]).held_out(LENGTH, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"raw": RawConfig(["a.tar"])}, r"data\.raw\.tokenizer is missing"),
        ({"raw": RawConfig(["a.tar"], tokenizer="t", buffer=0)}, r"data\.raw\.buffer=0"),
        ({"raw": RawConfig(["https://me:secret@host/a.tar"], tokenizer="t")}, "https://host/a.tar: give URLs without"),
        ({"raw": RawConfig(["a.tar"], tokenizer="t"), "path": "datasets/a"}, r"data\.path does nothing for raw text"),
        ({"raw": RawConfig(["a.tar"], tokenizer="t"), "packing": "best_fit"}, r"data\.packing does nothing"),
        ({"raw": RawConfig(["a.tar"], tokenizer="t"), "weights": {"a": 1.0}}, r"data\.weights, data\.epochs does"),
        ({"raw": RawConfig(["a.tar"], tokenizer="t"), "bad_shards": "leave_out"}, r"data\.bad_shards does nothing"),
        ({}, r"`data\.path` is required"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        check_data(DataConfig(**settings))
    assert "secret" not in str(refused.value)
