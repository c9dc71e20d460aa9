"""A rank goes on without what is bad, from the same step on as all others, or stops by name."""

from __future__ import annotations

import itertools
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from commands import flip_a_bit
from file_server import file_server

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.foundation.errors import Failure
from data_pipeline.loader import IGNORED, Batch, Share
from data_pipeline.storage.dataset_files import BadFile
from train.distributed import World
from train.stream import DatasetStream, LeftOut

ALONE = World(0, 0, 1, torch.device("cpu"))
LENGTH, BATCH = 32, 8


@pytest.fixture(autouse=True)
def a_few_steps_at_a_time(monkeypatch):
    monkeypatch.setattr("data_pipeline.loader.CHUNK_TOKENS", 4 * BATCH * LENGTH)


def streamed(
    dataset: Path | str, may_leave_out: bool, lost: Sequence[str] = (), packing: str = "concatenate"
) -> DatasetStream:
    opened = open_dataset(DataConfig(str(dataset), LENGTH, packing, window=8, shards_together=1))
    segments = plan_segments(LENGTH, BATCH)
    return DatasetStream(
        open_training(opened, 3, segments, 1000),
        lambda lost: open_training(opened, 3, segments, 1000, lost),
        Share(BATCH),
        True,
        ALONE,
        may_leave_out,
        lost,
    )


def run(stream: DatasetStream, first: int, steps: int) -> tuple[list[Batch], dict[int, list[LeftOut]]]:
    batches, left_out = [], {}
    for step in range(first, first + steps):
        ([batch], found) = stream.next(step)
        batches.append(batch)
        if found:
            left_out[step] = found
    stream.close()
    return batches, left_out


def same(some: Sequence[Batch], others: Sequence[Batch]) -> bool:
    return all(
        torch.equal(one.tokens, other.tokens)
        and torch.equal(one.targets, other.targets)
        and (one.document_ends, one.numbers) == (other.document_ends, other.numbers)
        for one, other in zip(some, others, strict=True)
    )


@pytest.fixture
def second_shard(own_dataset) -> int:
    """The number of the shard that the second window of the run is made of."""
    opened = open_dataset(DataConfig(str(own_dataset), LENGTH, window=8, shards_together=1))
    _, second, *_ = open_training(opened, 3, plan_segments(LENGTH, BATCH), 1000).order.lines[0].windows(0, 0)
    return int(second[0])


def steps_of_an_epoch(dataset: Path) -> int:
    return streamed(dataset, False)._sequences.per_epoch // BATCH


@pytest.mark.parametrize(("damage", "packing"), [(flip_a_bit, "concatenate"), (Path.unlink, "best_fit")])
def test_a_bad_shard_is_left_out_once_and_all_else_is_what_it_was(
    small_dataset, own_dataset, second_shard, damage, packing
):
    steps = steps_of_an_epoch(small_dataset)
    whole, _ = run(streamed(small_dataset, True, packing=packing), 0, steps)
    name = f"train-{second_shard:06d}.tar"
    damage(own_dataset / name)
    stream = streamed(own_dataset, True, packing=packing)
    less, left_out = run(stream, 0, steps)
    assert stream.lost == [name]
    ((step, [told]),) = left_out.items()
    assert told.file == name and name in told.reason
    assert told.tokens > 10_000 and told.tokens / LENGTH <= told.sequences + 1 < 1.2 * told.tokens / LENGTH
    assert step > 0 and same(less[:step], whole[:step])
    lost_targets = sum(int((one.targets == IGNORED).sum()) for one in less) - sum(
        int((one.targets == IGNORED).sum()) for one in whole
    )
    assert 0.8 * told.tokens < lost_targets < 1.1 * told.tokens
    for one, other in zip(less, whole):
        learnt = one.targets != IGNORED
        assert torch.equal(one.targets[learnt], other.targets[learnt]) and one.numbers == other.numbers
        assert torch.equal(one.tokens[learnt], other.tokens[learnt])
    # Who goes on from anywhere with what was recorded reads the same.
    again, told_again = run(streamed(own_dataset, True, stream.lost, packing), step + 3, steps - step - 3)
    assert same(again, less[step + 3 :]) and told_again == {}
    # And whoever starts anew comes to the same, without having been told.
    assert same(run(streamed(own_dataset, True, packing=packing), 0, steps)[0], less)


def test_a_step_of_nothing_but_a_bad_shard_has_no_targets(own_dataset, second_shard):
    (own_dataset / f"train-{second_shard:06d}.tar").unlink()
    less, _ = run(streamed(own_dataset, True), 0, steps_of_an_epoch(own_dataset))
    assert any(bool((one.targets == IGNORED).all()) for one in less)


def test_otherwise_it_stops_the_run_by_name(own_dataset, second_shard):
    flip_a_bit(own_dataset / f"train-{second_shard:06d}.tar")
    with pytest.raises(BadFile, match=rf"train-{second_shard:06d}\.tar is damaged"):
        run(streamed(own_dataset, False), 0, steps_of_an_epoch(own_dataset))


def test_a_shard_without_an_index_is_left_out_before_its_window_is_begun(own_dataset, second_shard):
    name = f"train-{second_shard:06d}.idx"
    (own_dataset / name).unlink()
    stream = streamed(own_dataset, True)
    steps = steps_of_an_epoch(own_dataset)
    less, left_out = run(stream, 0, steps)
    assert stream.lost == [name] and len(left_out) == 1
    assert same(run(streamed(own_dataset, True, [name]), 5, steps - 5)[0], less[5:])


def test_in_a_window_that_is_begun_the_order_can_not_do_without_an_index(own_dataset, second_shard):
    steps = steps_of_an_epoch(own_dataset)
    sequences = streamed(own_dataset, True)._sequences
    begun = next(step for step in range(steps) if sequences.begun(second_shard, step))
    (own_dataset / f"train-{second_shard:06d}.idx").unlink()
    with pytest.raises(Failure, match=rf"train-{second_shard:06d}\.idx is missing.*can't be left out"):
        run(streamed(own_dataset, True), begun + 2, 5)


def test_when_every_shard_is_bad_the_run_ends(own_dataset):
    for path in own_dataset.glob("train-*.tar"):
        flip_a_bit(path)
    with pytest.raises(Failure, match=r"every shard to train on is bad: train-000000\.tar, train-000001\.tar"):
        run(streamed(own_dataset, True), 0, steps_of_an_epoch(own_dataset))


def test_a_full_disk_is_no_shards_fault_and_stops_the_run(small_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))  # in which no shard is yet
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with file_server() as server:
        stream = streamed(server.serve_folder("web", small_dataset), True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(Failure, match=r"fails: .*choose another by data\.cache\.folder"):
                run(stream, 0, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
    assert stream.lost == []


def test_steps_go_on_through_the_end_of_an_epoch(small_dataset):
    steps = steps_of_an_epoch(small_dataset)
    batches, _ = run(streamed(small_dataset, True), steps - 2, 4)
    numbers = list(itertools.chain(*(batch.numbers for batch in batches)))
    assert numbers == list(range((steps - 2) * BATCH, (steps + 2) * BATCH))
