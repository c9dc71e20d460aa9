"""A shard that is left out changes nothing but itself: its tokens are there, and nothing is learnt from them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, Dataset, open_training
from data_pipeline.manifest import FORMAT_VERSION, Manifest, ShardRecord, SourceCounts, SplitCounts, dataset_fingerprint
from data_pipeline.packing import KINDS
from data_pipeline.sequences import Rows, Sequences
from data_pipeline.shards import Block, write_shard
from data_pipeline.storage.dataset_files import LocalFiles

LENGTH, BATCH, SHARDS = 32, 4, 6
END, LOST = 0, 3
"""Every token of shard n but the ends of documents is 100 + n."""


def blocks_of(shard: int) -> list[Block]:
    draw = np.random.default_rng(shard)
    blocks = []
    for tokens in (160, 96, 128, 64):
        ends = np.append(np.sort(draw.choice(np.arange(2, tokens - 2, 4), 5, replace=False)), tokens)
        values = np.full(tokens, 100 + shard, np.uint16)
        values[ends - 1] = END
        blocks.append(Block(values, ends.astype(np.uint32)))
    return blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[Path, list[ShardRecord]]:
    path = tmp_path_factory.mktemp("marked")
    return path, [write_shard(path, "train", shard, "ab"[shard % 2], blocks_of(shard)) for shard in range(SHARDS)]


def opened(folder, packing: str, lost: tuple[str, ...] = (), weights: dict[str, float] | None = None) -> Sequences:
    path, records = folder
    sources = {source: SourceCounts(1, 1, 1) for source in "ab"}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=dataset_fingerprint(records, "uint16", "tokenizer", sources),
        tokenizer_fingerprint="tokenizer",
        vocabulary_size=100 + SHARDS,
        end_of_document=END,
        dtype="uint16",
        splits={"train": SplitCounts(1, 1, 1, 1)},
        sources=sources,
        shards=records,
        settings={},
        stages={},
    )
    config = DataConfig(str(path), LENGTH, packing, window=4, shards_together=2, weights=weights or {})
    return open_training(Dataset(config, manifest, LocalFiles(path)), 5, plan_segments(LENGTH, BATCH), 100, lost)


def epoch(sequences: Sequences) -> Rows:
    rows = sequences.order.lines[0].length if sequences.packings[0].pads else sequences.order.lines[0].length // LENGTH
    read = [sequences.read(np.arange(first, min(first + 10, rows)), True) for first in range(0, rows, 10)]
    ignored = [np.zeros((len(r.tokens), LENGTH), bool) if r.ignored is None else r.ignored for r in read]
    ends = [row for r in read for row in r.document_ends]
    return Rows(np.concatenate([r.tokens for r in read]), np.concatenate(ignored), ends)


@pytest.mark.parametrize("packing", KINDS)
def test_without_a_tar_the_order_is_the_same_and_its_tokens_are_no_targets(folder, packing):
    whole, less = (epoch(opened(folder, packing, lost)) for lost in ((), (f"train-{LOST:06d}.tar",)))
    gone = whole.tokens == 100 + LOST
    gone[:, 1:] |= (whole.tokens[:, 1:] == END) & gone[:, :-1]
    if packing == "best_fit":  # what is padded is no document's end
        gone[:, 1:] &= ~whole.ignored
    assert 0 < gone.sum() < gone.size / 4
    assert np.array_equal(less.tokens, np.where(gone, END, whole.tokens))
    expected = whole.ignored | gone[:, 1:] | gone[:, :-1]
    # Of an end that a row begins with nobody can tell here which shard it is of; it is the input of the first target.
    known = np.ones_like(expected)
    known[:, 0] = whole.tokens[:, 0] != END
    assert np.array_equal(less.ignored[known], expected[known])


@pytest.mark.parametrize("packing", KINDS)
def test_without_an_index_all_else_is_still_read_once(folder, packing):
    whole, less = (epoch(opened(folder, packing, lost)) for lost in ((), (f"train-{LOST:06d}.idx",)))
    assert whole.tokens.shape == less.tokens.shape
    counts = [Counter(rows.tokens[:, :-1].flatten().tolist()) for rows in (whole, less)]
    assert counts[1] - Counter({END: counts[1][END]}) == counts[0] - Counter(
        {END: counts[0][END], 100 + LOST: counts[0][100 + LOST]}
    )
    learnt = [Counter(rows.tokens[:, 1:][~rows.ignored].tolist()) for rows in (whole, less)]
    for shard in set(range(SHARDS)) - {LOST}:
        assert 0.9 * learnt[0][100 + shard] < learnt[1][100 + shard] <= counts[0][100 + shard]
    window = next(
        {int(shard) for shard in window}
        for window in opened(folder, packing).order.lines[0]._epoch(0).shards
        if LOST in window
    )
    untouched = ~np.isin(whole.tokens, [100 + shard for shard in window] + [END]).any(axis=1)
    apart = [row for row in range(len(whole.tokens)) if untouched[row]]
    assert all(np.array_equal(whole.tokens[row], less.tokens[row]) for row in apart)


@pytest.mark.parametrize("packing", KINDS)
def test_documents_end_where_a_missing_piece_does(folder, packing):
    whole, less = (epoch(opened(folder, packing, lost)) for lost in ((), (f"train-{LOST:06d}.tar",)))
    for tokens, before, after in zip(whole.tokens, whole.document_ends, less.document_ends):
        assert after == sorted(set(after)) and after[-1] == LENGTH
        # Every document that is still there begins and ends where it did.
        starts = [0, *before[:-1]]
        for start, end in zip(starts, before):
            if tokens[start] not in (END, 100 + LOST):
                assert end in after and (start == 0 or start in after)


@pytest.mark.parametrize("packing", KINDS)
def test_without_any_shard_nothing_is_learnt(folder, packing):
    rows = epoch(opened(folder, packing, tuple(f"train-{shard:06d}.tar" for shard in range(SHARDS))))
    assert rows.ignored.all() and (rows.tokens == END).all()


def test_what_a_shard_gives_in_an_epoch_is_counted(folder):
    tokens = sum(len(block.tokens) for block in blocks_of(LOST))
    assert opened(folder, "concatenate").per_epoch_of(LOST) == (tokens // LENGTH, tokens)
    rows, counted = opened(folder, "best_fit").per_epoch_of(LOST)
    assert counted == tokens and tokens / LENGTH <= rows < 1.3 * tokens / LENGTH


def test_of_each_source_the_largest_shards_are_counted_for_the_cache(folder):
    _, records = folder
    sizes = [record.bytes + record.index_bytes for record in records]
    assert list(opened(folder, "concatenate").needed_at_once()) == [("", 4, sum(sorted(sizes)[-4:]))]
    mixed = list(opened(folder, "concatenate", weights={"a": 1, "b": 1}).needed_at_once())
    assert mixed == [("a", 3, sum(sizes[0::2])), ("b", 3, sum(sizes[1::2]))]


@pytest.mark.parametrize("weights", [{}, {"a": 3, "b": 1}])
def test_a_window_is_begun_with_its_first_sequence(folder, weights):
    sequences = opened(folder, "concatenate", weights=weights)
    read: dict[tuple[int, int], set[int]] = {}  # positions by line and window
    for step in range(40):
        for source, line in enumerate(sequences.order.lines):
            windows = [ends.tolist() for ends in (line._epoch(epoch).ends for epoch in range(4))]
            bounds = [epoch * line.length + end for epoch in range(4) for end in windows[epoch]]
            for number, (first, stop) in enumerate(zip([0, *bounds], bounds)):
                mine = read.get((source, number), set())
                if mine and len(mine) < stop - first:
                    epoch, within = divmod(number, len(windows[0]))
                    shards = sequences.packings[source].shards[line._epoch(epoch).shards[within]]
                    assert all(sequences.begun(int(shard), step) for shard in shards)
        numbers = np.array(sequences.order.steps.numbers(step))
        ((_, located),) = sequences.order.locate(numbers)
        for source, position in zip(located.sources.tolist(), located.positions.tolist()):
            line = sequences.order.lines[source]
            for at in range(position, position + LENGTH):
                epoch, within = divmod(at, line.length)
                ends = line._epoch(epoch).ends
                window = epoch * len(ends) + int(np.searchsorted(ends, within, side="right"))
                read.setdefault((source, window), set()).add(at)
    begun = [sum(sequences.begun(shard, step) for shard in range(SHARDS)) for step in range(40)]
    assert begun[0] == 0 and max(begun) <= 2 * len(sequences.order.lines)
