"""The stream of steps: every sequence equals the plain reading, and one number says where a run goes on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_reading import plain_blocks

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.loader import Batch, DataConfig, Share, open_split, read_ahead, stream
from data_pipeline.packing import read_rows

LENGTH = 48


def opened(dataset: Path, split: str = "train", seed: int = 3, **more):
    return open_split(DataConfig(str(dataset), LENGTH, window=64), split, seed, **more)


def take(batches, count: int) -> list[list[Batch]]:
    iterator = iter(batches)
    try:
        return list(itertools.islice(iterator, count))
    finally:
        iterator.close()


def same(a: Batch, b: Batch) -> bool:
    equal = torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)
    return equal and a.document_ends == b.document_ends and a.numbers == b.numbers


def test_every_sequence_of_an_epoch_equals_the_naive_concatenation(small_dataset):
    order, store = opened(small_dataset)
    blocks = plain_blocks(small_dataset, "train")
    rows = read_rows(order, store, range(order.sequences_per_epoch))
    for number, row, ends in zip(rows.numbers, rows.tokens, rows.document_ends):
        expected, is_end = [], []
        for block, start, stop in order.spans(number):
            tokens, block_ends = blocks[block]
            expected += tokens[start:stop].tolist()
            is_end += [at + 1 in block_ends for at in range(start, stop)]
        assert row.tolist() == expected
        # Ends among the inputs; the row's own end always closes the list.
        assert ends == [*(at + 1 for at in range(LENGTH - 1) if is_end[at]), LENGTH]


def test_an_epoch_trains_on_every_token_of_the_split_once(small_dataset):
    order, store = opened(small_dataset)
    targets = read_rows(order, store, range(order.sequences_per_epoch)).tokens[:, 1:]
    counts = np.bincount(targets.flatten(), minlength=1 << 16)
    in_split = np.bincount(
        np.concatenate([tokens for tokens, _ in plain_blocks(small_dataset, "train")]), minlength=1 << 16
    )
    missing = in_split - counts
    assert missing.min() >= 0 and 1 <= missing.sum() <= LENGTH


def test_validation_is_read_in_storage_order(small_dataset):
    order, store = opened(small_dataset, "validation", shuffle=False)
    line = np.concatenate([tokens for tokens, _ in plain_blocks(small_dataset, "validation")])
    rows = read_rows(order, store, range(order.sequences_per_epoch)).tokens
    for number, row in enumerate(rows):
        assert row.tolist() == line[number * LENGTH : (number + 1) * LENGTH + 1].tolist()


def test_targets_are_the_next_tokens(small_dataset):
    order, store = opened(small_dataset)
    [[batch]] = take(stream(order, store, Share(4, 4), 0), 1)
    assert batch.tokens.shape == batch.targets.shape == (4, LENGTH)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("first", [1, 7, 13])
def test_the_stream_from_a_step_is_the_tail_of_the_stream_from_the_beginning(small_dataset, first):
    order, store = opened(small_dataset)
    share = Share(batch=8, micro=2)
    whole = take(stream(order, store, share, 0), first + 5)[first:]
    tail = take(stream(*opened(small_dataset), share, first), 5)
    for before, after in zip(whole, tail, strict=True):
        assert len(before) == 4
        assert all(same(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("micro", "ranks"), [(2, 1), (1, 2), (2, 4), (1, 8)])
def test_ranks_and_micro_batches_divide_the_same_step(small_dataset, micro, ranks):
    order, store = opened(small_dataset)
    [[whole]] = take(stream(order, store, Share(8, 8), 4), 1)
    parts = []
    for rank in range(ranks):
        [batches] = take(stream(order, store, Share(8, micro, rank, ranks), 4), 1)
        parts += batches
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    assert [ends for part in parts for ends in part.document_ends] == whole.document_ends
    assert [number for part in parts for number in part.numbers] == list(whole.numbers)


def test_the_stream_goes_on_into_the_next_epoch(small_dataset):
    order, store = opened(small_dataset)
    per_epoch = order.sequences_per_epoch
    step = per_epoch // 8
    [[batch]] = take(stream(order, store, Share(8, 8), step), 1)
    assert {order.epoch_of(number) for number in batch.numbers} == {0, 1} or per_epoch % 8 == 0
    assert torch.equal(
        batch.tokens, torch.from_numpy(read_rows(order, store, batch.numbers).tokens[:, :-1].astype("int64"))
    )


def test_a_damaged_shard_stops_the_stream_by_name(own_dataset):
    path = own_dataset / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 4
    path.write_bytes(data)
    order, store = opened(own_dataset)
    with pytest.raises(Failure, match=r"train-000001\.tar is damaged"):
        take(stream(order, store, Share(64, 64), 0), 100)


def test_a_split_shorter_than_a_sequence_is_refused(small_dataset):
    with pytest.raises(UserError, match=r"split `validation`.*shorten data.sequence_length"):
        open_split(DataConfig(str(small_dataset), 1 << 20), "validation", 0)


@pytest.mark.parametrize("settings", [{"sequence_length": 0}, {"window": 0}])
def test_lengths_below_one_are_refused(small_dataset, settings):
    with pytest.raises(UserError, match="must be at least 1"):
        open_split(DataConfig(str(small_dataset), **settings), "train", 0)


class Source:
    """Counts what is taken of it; breaks at `breaks_at`."""

    def __init__(self, breaks_at: int | None = None, end: int | None = None):
        self.taken, self.breaks_at, self.end = 0, breaks_at, end

    def __iter__(self) -> Iterator[int]:
        while self.taken != self.end:
            if self.taken == self.breaks_at:
                raise Failure("broken here")
            self.taken += 1
            yield self.taken - 1


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_reading_ahead_keeps_the_order_and_ends():
    assert list(read_ahead(iter(Source(end=50)), 3)) == list(range(50))
    assert not reading_threads()


def test_an_error_is_raised_at_its_place_in_the_order():
    items = read_ahead(iter(Source(breaks_at=5)), 16)
    received = []
    with pytest.raises(Failure, match="broken here"):
        for item in items:
            received.append(item)
            time.sleep(0.01)  # the error is long there before these are taken
    assert received == [0, 1, 2, 3, 4]
    assert not reading_threads()


def test_closing_ends_the_thread_even_when_it_waits_for_room():
    items = read_ahead(iter(Source()), 2)
    assert next(items) == 0
    assert len(reading_threads()) == 1
    items.close()
    assert not reading_threads()


def test_at_most_so_many_are_read_ahead():
    source = Source()
    items = read_ahead(iter(source), 4)
    for wanted in range(10):
        assert next(items) == wanted
        time.sleep(0.02)
        # `depth` wait in the queue and one more is in the reader's hands.
        assert source.taken <= wanted + 1 + 4 + 1
    assert source.taken > 10, "nothing is read ahead"
    items.close()
