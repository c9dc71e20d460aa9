"""The stream of steps: every sequence equals the plain reading, and one number says where a run goes on."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_reading import plain_blocks

from data_pipeline.curriculum import NO_RAMP, RampConfig, StageConfig, plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_in_storage_order, open_training
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.loader import IGNORED, Batch, Share, read_ahead, read_steps, stream
from data_pipeline.sequences import Sequences

LENGTH, BATCH = 48, 8
PACKINGS = ("concatenate", "best_fit")


def opened(dataset: Path, seed: int = 3, batch_ramp: RampConfig = NO_RAMP, batch: int = BATCH, **more) -> Sequences:
    config = DataConfig(str(dataset), **{"sequence_length": LENGTH, "window": 64, **more})
    segments = plan_segments(config.sequence_length, batch, config.stages, config.ramp, batch_ramp)
    return open_training(open_dataset(config), seed, segments, 100)


def take(batches, count: int) -> list[list[Batch]]:
    iterator = iter(batches)
    try:
        return list(itertools.islice(iterator, count))
    finally:
        iterator.close()


def same(a: Batch, b: Batch) -> bool:
    equal = torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)
    return equal and a.document_ends == b.document_ends and a.numbers == b.numbers


def plain_documents(dataset: Path, split: str) -> Counter[tuple[int, ...]]:
    blocks = plain_blocks(dataset, split)
    return Counter(tuple(document.tolist()) for tokens, ends in blocks for document in np.split(tokens, ends[:-1]))


def epoch_of_rows(sequences: Sequences) -> np.ndarray:
    return read_steps(sequences, [range(sequences.per_epoch)], False).tokens


def test_concatenated_an_epoch_is_the_documents_of_the_split_end_to_end(small_dataset):
    sequences = opened(small_dataset, window=1)  # of one sequence: in the order of the line
    end = sequences.store.end_of_document
    line = np.concatenate(epoch_of_rows(sequences)[:, :-1]).tolist()
    ends = [0, *(at + 1 for at, token in enumerate(line) if token == end)]
    documents = Counter(tuple(line[start:stop]) for start, stop in itertools.pairwise(ends))
    missing = plain_documents(small_dataset, "train") - documents
    assert not documents - plain_documents(small_dataset, "train")
    assert sum(map(len, missing.elements())) < LENGTH + len(line) - ends[-1] + 1


def test_an_epoch_trains_on_every_token_of_the_split_once(small_dataset):
    sequences = opened(small_dataset)
    tokens = np.concatenate([tokens for tokens, _ in plain_blocks(small_dataset, "train")])
    rows = -(-len(tokens) // LENGTH)  # the last of them goes on into the next epoch
    inputs = read_steps(sequences, [range(rows)], False).tokens[:, :-1].flatten()
    more = np.bincount(inputs, minlength=1 << 16) - np.bincount(tokens, minlength=1 << 16)
    assert more.min() >= 0 and more.sum() == rows * LENGTH - len(tokens)


def test_best_fit_trains_on_every_document_whole(small_dataset):
    sequences = opened(small_dataset, packing="best_fit", sequence_length=512)
    rows = read_steps(sequences, [range(sequences.per_epoch)], with_documents=True)
    documents: Counter[tuple[int, ...]] = Counter()
    long = [document for document in plain_documents(small_dataset, "train").elements() if len(document) > 513]
    for tokens, ignored, ends in zip(rows.tokens.tolist(), rows.ignored, rows.document_ends):
        filled = 513 - int(ignored.sum())
        for start, stop in itertools.pairwise([0, *ends]):
            stop = min(filled, stop + (stop == 512))
            if start < stop:
                documents[tuple(tokens[start:stop])] += 1
    whole = Counter(
        {document: count for document, count in plain_documents(small_dataset, "train").items() if len(document) <= 513}
    )
    assert whole - documents == Counter()
    parts = documents - whole
    assert all(
        any(part == document[at : at + len(part)] for document in long for at in range(0, len(document), 512))
        for part in parts
    )


def test_counted_rows_are_kept_and_what_is_damaged_is_counted_again(small_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    lengths = [opened(small_dataset, packing="best_fit").order.lines[0].length]
    (path,) = (tmp_path / "packed").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.packed_rows.count_rows", None)  # is not called
        lengths.append(opened(small_dataset, packing="best_fit").order.lines[0].length)
    whole = path.read_bytes()
    for damage in (b"", b"junk", whole[:-3], whole[:-3] + b"\1" + whole[-2:]):
        path.write_bytes(damage)
        lengths.append(opened(small_dataset, packing="best_fit").order.lines[0].length)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "file"))  # where no folder can be made
    lengths.append(opened(small_dataset, packing="best_fit").order.lines[0].length)
    assert len(set(lengths)) == 1


def test_validation_is_read_in_storage_order(small_dataset):
    sequences = open_in_storage_order(open_dataset(DataConfig(str(small_dataset), LENGTH)), "validation")
    line = np.concatenate([tokens for tokens, _ in plain_blocks(small_dataset, "validation")])
    for number, row in enumerate(epoch_of_rows(sequences)):
        assert row.tolist() == line[number * LENGTH : (number + 1) * LENGTH + 1].tolist()


@pytest.mark.parametrize("packing", PACKINGS)
def test_targets_are_the_next_tokens_and_padding_is_none(small_dataset, packing):
    sequences = opened(small_dataset, packing=packing, sequence_length=300)
    steps = take(stream(sequences, Share(BATCH), 0), 20)
    tokens, targets = (torch.cat([getattr(batch, name) for [batch] in steps]) for name in ("tokens", "targets"))
    assert tokens.shape == targets.shape == (20 * BATCH, 300)
    assert tokens.dtype == targets.dtype == torch.int64
    learnt = targets != IGNORED
    assert torch.equal(tokens[:, 1:][learnt[:, :-1]], targets[:, :-1][learnt[:, :-1]])
    if packing == "concatenate":
        assert learnt.all()
    else:  # once padding begins, nothing is learnt until the row ends
        assert torch.equal(learnt, learnt.cumprod(dim=1).bool()) and 0.9 < learnt.float().mean() < 1


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("first", [1, 7, 13])
def test_the_stream_from_a_step_is_the_tail_of_the_stream_from_the_beginning(small_dataset, first, packing):
    share = Share(micro=2)
    whole = take(stream(opened(small_dataset, packing=packing), share, 0, True), first + 5)[first:]
    tail = take(stream(opened(small_dataset, packing=packing), share, first, True), 5)
    for before, after in zip(whole, tail, strict=True):
        assert len(before) == 4
        assert all(same(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("micro", "ranks"), [(2, 1), (1, 2), (2, 4), (1, 8)])
def test_ranks_and_micro_batches_divide_the_same_step(small_dataset, micro, ranks):
    sequences = opened(small_dataset)
    [[whole]] = take(stream(sequences, Share(8), 4, True), 1)
    parts = []
    for rank in range(ranks):
        [batches] = take(stream(sequences, Share(micro, rank, ranks), 4, True), 1)
        parts += batches
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    assert [ends for part in parts for ends in part.document_ends] == whole.document_ends
    assert [number for part in parts for number in part.numbers] == list(whole.numbers)


def test_the_stream_goes_on_into_the_next_epoch(small_dataset):
    sequences = opened(small_dataset)
    step = sequences.per_epoch // BATCH
    [[batch]] = take(stream(sequences, Share(BATCH), step), 1)
    length = sequences.order.lines[0].length
    epochs = {
        int(at) // length for _, located in sequences.order.locate(np.array(batch.numbers)) for at in located.positions
    }
    assert epochs == {0, 1}
    assert torch.equal(
        batch.tokens, torch.from_numpy(read_steps(sequences, [batch.numbers], False).tokens[:, :-1].astype("int64"))
    )


def test_a_run_that_changes_on_its_way_changes_its_batches(small_dataset):
    stages = [StageConfig(3000), StageConfig(None, sequence_length=64)]
    sequences = opened(small_dataset, batch_ramp=RampConfig(2, 1500, 3), stages=stages)
    steps = take(stream(sequences, Share(micro=2), 0), 40)
    shapes = [(sum(len(batch.tokens) for batch in step), step[0].tokens.shape[1]) for step in steps]
    assert [shape for shape, _ in itertools.groupby(shapes)] == [(2, 48), (4, 48), (6, 48), (8, 48), (8, 64)]
    seen = np.cumsum([0, *(sequences * length for sequences, length in shapes)])
    assert seen[shapes.index((8, 48))] >= 1500 > seen[shapes.index((8, 48)) - 1]
    assert seen[shapes.index((8, 64))] >= 3000 > seen[shapes.index((8, 64)) - 1]
    assert [list(batch.numbers) for step in steps for batch in step] == np.arange(seen_sequences(shapes)).reshape(
        -1, 2
    ).tolist()
    assert all(same(a, b) for a, b in zip(steps[20], take(stream(sequences, Share(micro=2), 20), 1)[0], strict=True))


def seen_sequences(shapes: list[tuple[int, int]]) -> int:
    return sum(sequences for sequences, _ in shapes)


def test_a_damaged_shard_stops_the_stream_by_name(own_dataset):
    path = own_dataset / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 4
    path.write_bytes(data)
    with pytest.raises(Failure, match=r"train-000001\.tar is damaged"):
        take(stream(opened(own_dataset, batch=64), Share(64), 0), 100)


def test_a_split_shorter_than_a_sequence_is_refused(small_dataset):
    with pytest.raises(UserError, match=r"split `validation`.*shorten data.sequence_length"):
        open_in_storage_order(open_dataset(DataConfig(str(small_dataset), 1 << 20)), "validation")
    with pytest.raises(UserError, match=r"split `train`.*shorten data.sequence_length"):
        opened(small_dataset, sequence_length=1 << 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 0}, r"sequence_length=0 must be at least 1"),
        ({"window": 0}, r"data\.window=0 must be at least 1"),
        ({"shards_together": 0}, r"data\.shards_together=0 must be at least 1"),
        ({"packing": "greedy"}, r"data\.packing=greedy: there are concatenate, best_fit"),
        ({"packing": "best_fit", "ramp": RampConfig(8, 100)}, r"best_fit packs all documents for one length"),
        ({"stages": [StageConfig()], "epochs": {"text": 1}}, r"say the passes in each stage"),
        ({"weights": {"web": 1}}, r"data\.weights: the dataset has no source `web`\. It has text"),
        ({"weights": {"text": 0}}, r"data\.weights: at least one source must have a weight above 0"),
    ],
)
def test_settings_that_can_not_work_are_named(small_dataset, settings, message):
    with pytest.raises(UserError, match=message):
        opened(small_dataset, **settings)


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
