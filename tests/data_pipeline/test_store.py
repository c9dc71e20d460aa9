"""Pieces of blocks come out of the mapped shards as plain webdataset reads them, or not at all."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from commands import flip_a_bit
from plain_reading import plain_blocks
from soak import examples, note

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.pieces import Pieces
from data_pipeline.storage.dataset_files import LocalFiles
from data_pipeline.store import Store


def open_store(dataset: Path, split: str = "train") -> Store:
    return Store(LocalFiles(dataset), load_manifest(dataset), split)


def numbered(store: Store) -> list[tuple[int, int]]:
    """Return (shard, block) of all blocks in storage order."""
    return [(shard, block) for shard, record in enumerate(store.shards) for block in range(record.blocks)]


def pieces_of(*pieces: tuple[int, int, int, int, int, int]) -> Pieces:
    return Pieces(*(np.array(column, np.int64) for column in zip(*pieces)))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_document_is_what_plain_webdataset_reads(small_dataset, split):
    store, blocks = open_store(small_dataset, split), plain_blocks(small_dataset, split)
    expected = [document.tolist() for tokens, ends in blocks for document in np.split(tokens, ends[:-1])]
    assert [document.tolist() for document in store.documents()] == expected


def test_a_dataset_has_more_than_one_shard_here(small_dataset):
    assert len(list(small_dataset.glob("train-*.tar"))) > 2


def test_pieces_from_anywhere_are_put_where_they_belong(small_dataset):
    store, blocks = open_store(small_dataset), plain_blocks(small_dataset, "train")
    places = numbered(store)
    draw = np.random.default_rng(0)
    wanted, found = np.zeros((600, 40), store.dtype), np.zeros((600, 40), store.dtype)
    pieces = []
    long_enough = [number for number, (tokens, _) in enumerate(blocks) if len(tokens) >= 40]
    for row in range(600):
        cuts = [0, 40] if row % 3 else sorted({0, 40, *draw.integers(1, 40, 2).tolist()})
        for first, stop in itertools.pairwise(cuts):
            number = int(draw.choice(long_enough))
            start = int(draw.integers(len(blocks[number][0]) - (stop - first) + 1))
            pieces.append((row, first, *places[number], start, stop - first))
            wanted[row, first:stop] = blocks[number][0][start : start + stop - first]
    store.read(pieces_of(*pieces), found)
    assert np.array_equal(found, wanted)


def test_an_unknown_split_is_named_with_those_there_are(small_dataset):
    with pytest.raises(UserError, match="no split `test`; it has train, validation"):
        open_store(small_dataset, "test")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.idx"])
def test_a_damaged_shard_or_index_is_named_before_a_token_of_it_is_used(own_dataset, name, damage):
    path = own_dataset / name
    damage(path)
    store = open_store(own_dataset)
    out = np.zeros((1, 3), store.dtype)
    with pytest.raises(Failure, match=re.escape(str(path))):
        store.read(pieces_of((0, 0, 1, 0, 0, 3)), out)
    assert not out.any()
    store.read(pieces_of((0, 0, 0, 0, 0, 3)), out)  # the other shards stay readable
    assert out.any()


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.idx"])
def test_every_flipped_bit_of_a_shard_or_index_is_noticed_headers_too(own_dataset, name):
    path, manifest = own_dataset / name, load_manifest(own_dataset)
    whole, draw = path.read_bytes(), np.random.default_rng(8)
    header = draw.integers(8 * 512, size=examples(20))  # of the tar's first member, or the index's
    for bit in [*header.tolist(), *draw.integers(8 * len(whole), size=examples(180)).tolist()]:
        damaged = bytearray(whole)
        damaged[bit // 8 % len(whole)] ^= 1 << bit % 8
        path.write_bytes(damaged)
        store = Store(LocalFiles(own_dataset), manifest, "train")
        with pytest.raises(Failure, match=re.escape(str(path))):
            store.read(pieces_of((0, 0, 1, 0, 0, 3)), np.zeros((1, 3), store.dtype))
    note("Faults of storage", of=name, fault="a flipped bit", tried=examples(200), outcome="named, no token used")


def test_only_what_is_read_is_opened(own_dataset):
    for record in open_store(own_dataset).shards[1:]:
        (own_dataset / record.name).unlink()
        (own_dataset / record.index_name).unlink()
    out = np.zeros((1, 3), np.uint16)
    open_store(own_dataset).read(pieces_of((0, 0, 0, 1, 2, 3)), out)
    assert out.any()
