"""Documents become sequences in three ways: none of their tokens is lost in any, and best fit cuts no document."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data_pipeline.line import Line
from data_pipeline.packing import BestFit, Concatenate, Packing, _best_fit, count_rows
from data_pipeline.pieces import Pieces, ranges
from data_pipeline.shards import ShardIndex

SHARDS = some.lists(
    some.lists(some.lists(some.integers(2, 60), min_size=1, max_size=6), min_size=1, max_size=5), min_size=1, max_size=3
)
"""Lengths of documents, by block, by shard."""


def index_of(blocks: list[list[int]]) -> ShardIndex:
    counts = np.array([len(block) for block in blocks], np.int64)
    tokens = np.array([sum(block) for block in blocks], np.int64)
    ends = np.concatenate([np.cumsum(block) for block in blocks]).astype(np.uint32)
    nothing = np.zeros(len(blocks), np.int64)
    return ShardIndex(nothing, tokens, counts, ends, nothing, nothing, "uint16", "web")


def concatenated(shards) -> Concatenate:
    indexes = [index_of(blocks) for blocks in shards]
    return Concatenate(range(len(shards)), [index.token_counts.sum() for index in indexes], indexes.__getitem__)


def best_fit(shards, length, single=False) -> BestFit:
    indexes = [index_of(blocks) for blocks in shards]
    rows = [count_rows(index, length, single) for index in indexes]
    return BestFit(range(len(shards)), indexes.__getitem__, length, rows, single)


def line_of(packing: Packing, shuffle: bool = True) -> Line:
    return Line("dataset 0", packing.shard_lengths(), packing.cell_lengths, 2, shuffle)


def tokens_of(pieces: Pieces, row: int) -> list[tuple[int, tuple[int, int, int]]]:
    """Return (column, (shard, block, offset)) of every token of a row."""
    found = []
    for at in np.flatnonzero(pieces.rows == row):
        for step in range(pieces.lengths[at]):
            place = (int(pieces.shards[at]), int(pieces.blocks[at]), int(pieces.offsets[at]) + step)
            found.append((int(pieces.columns[at]) + step, place))
    return sorted(found)


def all_tokens(shards) -> set[tuple[int, int, int]]:
    return {(s, b, at) for s, blocks in enumerate(shards) for b, block in enumerate(blocks) for at in range(sum(block))}


def first_tokens(shards) -> set[tuple[int, int, int]]:
    return {
        (s, b, int(start))
        for s, blocks in enumerate(shards)
        for b, block in enumerate(blocks)
        for start in np.cumsum([0, *block[:-1]])
    }


@given(SHARDS, some.integers(1, 40), some.booleans())
def test_concatenated_every_token_is_an_input_once_an_epoch_and_then_the_target(shards, length, shuffle):
    packing = concatenated(shards)
    line = line_of(packing, shuffle)
    rows = line.length  # of T tokens each: T whole epochs
    pieces = packing.pieces(line, np.arange(0, rows * length, length), length)
    inputs: dict[tuple[int, int, int], int] = {}
    for row in range(rows):
        tokens = tokens_of(pieces, row)
        assert [column for column, _ in tokens] == list(range(length + 1))
        for _, place in tokens[:-1]:
            inputs[place] = inputs.get(place, 0) + 1
        if row + 1 < rows:
            assert tokens[-1][1] == tokens_of(pieces, row + 1)[0][1]
    assert inputs == dict.fromkeys(all_tokens(shards), length)


@given(SHARDS, some.integers(2, 40))
def test_best_fit_has_every_target_once_and_cuts_no_document_that_could_be_whole(shards, length):
    packing = best_fit(shards, length)
    line = line_of(packing)
    pieces = packing.pieces(line, np.arange(line.length), length)
    taken: list[tuple[int, int, int]] = []
    documents: dict[tuple[int, int, int], set[int]] = {}
    document_of = {
        (s, b, start + at): (s, b, start)
        for s, blocks in enumerate(shards)
        for b, block in enumerate(blocks)
        for start, size in zip(np.cumsum([0, *block[:-1]]).tolist(), block)
        for at in range(size)
    }
    for row in range(line.length):
        tokens = tokens_of(pieces, row)
        assert 1 < len(tokens) <= length + 1
        assert [column for column, _ in tokens] == list(range(len(tokens)))
        for (_, before), (_, place) in itertools.pairwise(tokens):
            if document_of[before] == document_of[place]:
                assert place[2] == before[2] + 1
                taken.append(place)
            documents.setdefault(document_of[place], set()).add(row)
            documents.setdefault(document_of[before], set()).add(row)
    # Of a document, all but its first token are targets within it.
    assert sorted(taken) == sorted(all_tokens(shards) - first_tokens(shards))
    sizes = {
        (s, b, int(start)): size
        for s, blocks in enumerate(shards)
        for b, block in enumerate(blocks)
        for start, size in zip(np.cumsum([0, *block[:-1]]), block)
    }
    for document, rows in documents.items():
        assert len(rows) == max(1, -(-(sizes[document] - 1) // length)), "in as few rows as it can be"


@given(SHARDS)
def test_single_gives_every_document_a_row_to_itself(shards):
    packing = best_fit(shards, 60, single=True)
    line = line_of(packing)
    pieces = packing.pieces(line, np.arange(line.length), 60)
    rows = [tokens_of(pieces, row) for row in range(line.length)]
    assert sorted(tokens[0][1] for tokens in rows) == sorted(first_tokens(shards))
    assert sorted(place for tokens in rows for _, place in tokens) == sorted(all_tokens(shards))


@given(SHARDS, some.integers(2, 40))
def test_rows_of_best_fit_do_not_depend_on_what_is_asked_for_together(shards, length):
    packing, line = best_fit(shards, length), line_of(best_fit(shards, length))
    together = packing.pieces(line, np.arange(2 * line.length), length)
    for row in range(0, 2 * line.length, 3):
        alone = best_fit(shards, length).pieces(line, np.array([row]), length)
        assert tokens_of(alone, 0) == tokens_of(together, row)


@given(SHARDS, some.integers(2, 40), some.booleans())
def test_document_ends_are_where_documents_end_or_are_cut(shards, length, packed):
    packing: Packing = best_fit(shards, length) if packed else concatenated(shards)
    line = line_of(packing)
    pieces = packing.pieces(line, np.arange(min(line.length, 30)), length)
    rows, ends = packing.document_ends(pieces)
    last_tokens = {
        (s, b, int(end) - 1)
        for s, blocks in enumerate(shards)
        for b, block in enumerate(blocks)
        for end in np.cumsum(block)
    }
    for row in range(min(line.length, 30)):
        tokens = tokens_of(pieces, row)
        expected = {column + 1 for column, place in tokens if place in last_tokens}
        if packed:  # a piece of a long document ends with its row, or where the next document begins
            expected |= {len(tokens)}
        assert set(ends[rows == row].tolist()) == expected


@settings(max_examples=200)
@given(some.lists(some.integers(1, 50), max_size=80), some.integers(50, 60))
def test_best_fit_is_what_its_definition_says(lengths, capacity):
    rows: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        room = {number: capacity - sum(lengths[each] for each in row) for number, row in enumerate(rows)}
        fitting = [number for number in room if room[number] >= lengths[item]]
        if fitting:
            rows[min(fitting, key=lambda number: room[number])].append(item)
        else:
            rows.append([item])
    packed = _best_fit(np.array(lengths, np.int64), capacity)
    fills = sorted(sorted(lengths[item] for item in row) for row in packed)
    assert sorted(item for row in packed for item in row) == list(range(len(lengths)))
    assert sorted(map(sum, fills)) == sorted(sum(lengths[item] for item in row) for row in rows)


def test_little_is_padding_where_documents_are_short():
    draw = np.random.default_rng(0)
    blocks = [np.minimum(draw.lognormal(6, 1, 60).astype(int) + 2, 20_000).tolist() for _ in range(100)]
    packing = best_fit([blocks], 2048)
    tokens = sum(map(sum, blocks))
    assert 1 <= packing.shard_lengths().sum() * 2048 / tokens < 1.02


def test_ranges_are_laid_behind_one_another():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


@pytest.mark.parametrize("length", [1, 7, 59, 60, 61, 1000])
def test_a_document_longer_than_a_sequence_fills_whole_ones(length):
    packing = best_fit([[[60]]], length)
    line = line_of(packing)
    assert line.length == max(1, -(-59 // length))
    pieces = packing.pieces(line, np.arange(line.length), length)
    targets = [place[2] for row in range(line.length) for _, place in tokens_of(pieces, row)[1:]]
    assert sorted(targets) == list(range(1, 60))
