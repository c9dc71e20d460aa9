"""Spans of tokens come out of the mapped shards as plain webdataset reads them, or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from plain_reading import plain_blocks

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.order import Span
from data_pipeline.store import Store


def open_store(dataset: Path, split: str = "train") -> Store:
    return Store(dataset, load_manifest(dataset), split)


def read(store: Store, spans: list[Span]) -> tuple[list[int], list[int]]:
    out = np.zeros(sum(span.stop - span.start for span in spans), store.dtype)
    ends = store.read(spans, out)
    return out.tolist(), ends


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_block_is_what_plain_webdataset_reads(small_dataset, split):
    store, blocks = open_store(small_dataset, split), plain_blocks(small_dataset, split)
    assert store.block_tokens.tolist() == [len(tokens) for tokens, _ in blocks]
    for number, (tokens, ends) in enumerate(blocks):
        assert read(store, [Span(number, 0, len(tokens))]) == (tokens.tolist(), ends)


def test_a_dataset_has_more_than_one_shard_here(small_dataset):
    assert len(list(small_dataset.glob("train-*.tar"))) > 2


def test_spans_across_blocks_and_shards_keep_their_document_ends(small_dataset):
    store, blocks = open_store(small_dataset), plain_blocks(small_dataset, "train")
    last_of_first_shard = load_manifest(small_dataset).shards[0].blocks - 1
    chosen = [last_of_first_shard, last_of_first_shard + 1, 3, 0, len(blocks) - 1]
    draw = np.random.default_rng(0)
    spans, tokens, ends = [], [], []
    for block in chosen:
        values, block_ends = blocks[block]
        start, stop = sorted(draw.choice(len(values) + 1, 2, replace=False).tolist())
        spans.append(Span(block, start, stop))
        # A document that ends where the span begins ended before it; one that ends with the span ends in it.
        ends += [end - start + len(tokens) for end in block_ends if start < end <= stop]
        tokens += values[start:stop].tolist()
    assert read(store, spans) == (tokens, ends)


def test_an_unknown_split_is_named_with_those_there_are(small_dataset):
    with pytest.raises(UserError, match="no split `test`; it has train, validation"):
        open_store(small_dataset, "test")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_a_damaged_index_is_named_before_anything_is_read(own_dataset, damage):
    path = own_dataset / "train-000001.idx"
    damage(path)
    with pytest.raises(Failure, match=re.escape(str(path))):
        open_store(own_dataset)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_a_damaged_shard_is_named_before_a_token_of_it_is_used(own_dataset, damage):
    path = own_dataset / "train-000001.tar"
    damage(path)
    store = open_store(own_dataset)
    first = load_manifest(own_dataset).shards[0].blocks
    out = np.zeros(3, store.dtype)
    with pytest.raises(Failure, match=re.escape(str(path))):
        store.read([Span(first, 0, 3)], out)
    assert not out.any()
    store.read([Span(0, 0, 3)], out)  # the other shards stay readable
    assert out.any()
