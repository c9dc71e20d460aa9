"""Encoded parts to shards: each shard takes a range of the shuffled order from every part of its source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import SPLITS, ShardRecord
from data_pipeline.preparation.encode import Encoded
from data_pipeline.preparation.encoded_parts import EncodedDocument, EncodedPart
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.preparation.workplace import Workplace
from data_pipeline.shards import Block, write_shard

BUCKETS = 1 << 16
"""Shards are divided at so many places in the order: fine enough for thousands of equal ones."""
BUCKET_BITS = np.uint64(48)
"""Of a place, below those that are its bucket."""
TOKENS_PER_MEGABYTE = 1 << 19


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written.

    Args:
        number: among the shards of its split.
        first, stop: buckets of the shuffled order, whose documents are in it.
        tokens: in it.
    """

    split: str
    number: int
    source: str
    first: int
    stop: int
    tokens: int


def assemble_shards(
    place: Workplace, encoded: Encoded, block_tokens: int, shard_tokens: int, engine: Engine
) -> list[ShardRecord]:
    """Write all shards of a dataset, and return their records in order."""
    plans = plan_shards(encoded, shard_tokens)
    task = WriteShard(encoded, place.dataset, place.folder("shards"), block_tokens)
    engine.run("writing shards", task, plans, [plan.tokens // TOKENS_PER_MEGABYTE + 1 for plan in plans])
    return [ShardRecord(**read_record(task.record(plan))) for plan in plans]


def plan_shards(encoded: Encoded, shard_tokens: int) -> list[ShardPlan]:
    """Divide each split of each source into shards of about equal size, none of them empty."""
    plans: list[ShardPlan] = []
    for split in SPLITS:
        number = 0
        for source in encoded.sources:
            tokens = sum(
                (_tokens_by_bucket(path, split) for path in encoded.files(source)), np.zeros(BUCKETS, np.int64)
            )
            for first, stop, count in _cuts(tokens, shard_tokens):
                plans.append(ShardPlan(split, number, source, first, stop, count))
                number += 1
    return plans


def _tokens_by_bucket(path: Path, split: str) -> NDArray[np.int64]:
    part = EncodedPart(path)
    documents = part.documents(split)
    ends = part.array("ends")
    lengths = np.diff(ends[: documents.stop], prepend=0)[documents.start :]
    buckets = part.array("places")[documents.start : documents.stop] >> BUCKET_BITS
    tokens = np.zeros(BUCKETS, np.int64)
    np.add.at(tokens, buckets.astype(np.int64), lengths)
    return tokens


def _cuts(tokens: NDArray[np.int64], shard_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first bucket, stop bucket, tokens) of shards."""
    line = np.cumsum(tokens)
    total = line[-1]
    shards = max(1, round(total / shard_tokens))
    stops = np.searchsorted(line, total * np.arange(1, shards + 1) / shards) + 1
    first = 0
    for stop in np.unique(stops):
        count = line[stop - 1] - (line[first - 1] if first else 0)
        if count:
            yield first, int(stop), int(count)
        first = int(stop)


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard.

    Args:
        dataset, records: folders of the shards and of their records.
        block_tokens: of a block, at most, where documents allow it.
    """

    encoded: Encoded
    dataset: Path
    records: Path
    block_tokens: int

    def record(self, plan: ShardPlan) -> Path:
        return self.records / f"{plan.split}-{plan.number:06d}.json"

    def __call__(self, plan: ShardPlan) -> None:
        if has_record(self.record(plan)):
            return
        blocks = _blocks(self._documents(plan), self.block_tokens)
        # Written elsewhere, for nothing half-written may ever be among the shards, whoever is killed.
        with TemporaryDirectory(dir=self.records) as folder:
            record = write_shard(Path(folder), plan.split, plan.number, plan.source, blocks)
            for name in (record.name, record.index_name):
                os.replace(Path(folder) / name, self.dataset / name)
        write_record(self.record(plan), asdict(record))

    def _documents(self, plan: ShardPlan) -> Sequence[EncodedDocument]:
        """Return the shard's documents in the order of the shuffle, their tokens mapped, not read."""
        found: list[EncodedDocument] = []
        for path in self.encoded.files(plan.source):
            found += _documents_between(EncodedPart(path), plan)
        return sorted(found, key=lambda document: (document.place, document.number))


def _documents_between(part: EncodedPart, plan: ShardPlan) -> Iterator[EncodedDocument]:
    documents = part.documents(plan.split)
    places, numbers, ends = part.array("places"), part.array("numbers"), part.array("ends")
    tokens, keys, key_ends, labels = part.array("tokens"), part.array("keys"), part.array("key_ends"), part.labels()
    first, stop = (
        documents.start + int(np.searchsorted(places[documents.start : documents.stop] >> BUCKET_BITS, bucket))
        for bucket in (plan.first, plan.stop)
    )
    for number in range(first, stop):
        start, key_start = (int(array[number - 1]) if number else 0 for array in (ends, key_ends))
        yield EncodedDocument(
            tokens=tokens[start : ends[number]],
            split=plan.split,
            place=int(places[number]),
            number=int(numbers[number]),
            key=keys[key_start : key_ends[number]].tobytes().decode(),
            labels=None if labels is None else labels[start : ends[number]],
        )


def _blocks(documents: Sequence[EncodedDocument], block_tokens: int) -> Iterator[Block]:
    """Put documents together, none of them cut: one that is longer than a block is a block of its own."""
    pending: list[EncodedDocument] = []
    size = 0
    for document in documents:
        if pending and size + len(document.tokens) > block_tokens:
            yield _block(pending)
            pending, size = [], 0
        pending.append(document)
        size += len(document.tokens)
    if pending:
        yield _block(pending)


def _block(documents: Sequence[EncodedDocument]) -> Block:
    tokens = [document.tokens for document in documents]
    keys = [document.key for document in documents]
    ends = np.cumsum([len(each) for each in tokens])
    labels = [document.labels for document in documents if document.labels is not None]
    return Block(np.concatenate(tokens), ends, keys if any(keys) else None, np.concatenate(labels) if labels else None)
