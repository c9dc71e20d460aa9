"""Copies pieces of blocks out of a dataset's shards, which are mapped into memory through their indexes.

A shard is checked against the manifest before its first token is used: damaged data is never trained on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data_pipeline.foundation.errors import UserError
from data_pipeline.manifest import Manifest, ShardRecord, StoredFile
from data_pipeline.pieces import Pieces, alike
from data_pipeline.shards import ShardIndex, load_index, stand_in_index
from data_pipeline.storage.dataset_files import BadFile, DatasetFiles, NoRoom

RUNS_AT_ONCE = 128


class Store:
    """The shards of one split, by their numbers.

    Args:
        files: of the dataset.
        manifest: the dataset's.
        split: `train` or `validation`.
        lost: names of files that are bad and left out: a shard isn't read without its tar, nor without its index,
            which another then stands in for.

    Raises:
        UserError: the dataset has no such split.
    """

    def __init__(self, files: DatasetFiles, manifest: Manifest, split: str, lost: Collection[str] = ()):
        self.files, self.split, self._lost = files, split, frozenset(lost)
        self.dtype, self.end_of_document = np.dtype(manifest.dtype), manifest.end_of_document
        self.labelled = manifest.labelled
        self.shards = [record for record in manifest.shards if record.split == split]
        if not self.shards:
            known = ", ".join(sorted({record.split for record in manifest.shards}))
            raise UserError(f"{files.name} has no split `{split}`; it has {known}")
        names = [{record.name, record.index_name} for record in self.shards]
        self.left_out = [shard for shard in range(len(names)) if names[shard] & self._lost]
        self._indexes: dict[int, ShardIndex] = {}
        self._tokens: OrderedDict[int, NDArray] = OrderedDict()

    def require_files(self) -> None:
        """Look whether every file is there, as far as can be seen at a glance. Raises BadFile where one is not."""
        self.files.require(file for record in self.shards for file in (record.tar, record.index))

    def expect(self, now: Sequence[int], later: Sequence[int]) -> None:
        """Say which shards are read now and which after that: others are let go, these are fetched ahead."""
        needed = dict.fromkeys((*now, *later))
        for held in (self._tokens, self._indexes):
            for shard in [shard for shard in held if shard not in needed]:
                del held[shard]
        records = [self.shards[shard] for shard in needed]
        files = [file for record in records for file in (record.index, record.tar) if file.name not in self._lost]
        self.files.want(self.split, files)

    def make_way(self) -> None:
        """Let go of all shards if another process waits for room: to be called while nothing is read."""
        if self._tokens and self.files.crowded():
            self._tokens.clear()

    def shard_of(self, file: str) -> int:
        """Return the number of the shard that a file, its tar or its index, belongs to."""
        return next(at for at, record in enumerate(self.shards) if file in (record.name, record.index_name))

    def index(self, shard: int) -> ShardIndex:
        """Return a shard's index, read when first asked for.

        Raises:
            BadFile: it is missing, can't be reached, or is not what the manifest says.
        """
        if shard not in self._indexes:
            self._indexes[shard] = self._read_index(self.shards[shard])
        return self._indexes[shard]

    def _read_index(self, record: ShardRecord) -> ShardIndex:
        if record.index_name in self._lost:
            return stand_in_index(record, self.dtype.name)
        with self._open(record.index) as file:
            index = load_index(Path(file.name))
        if (len(index.token_counts), index.token_counts.sum()) != (record.blocks, record.tokens):
            raise BadFile(record.index_name, f"{self.files.name}: {record.index_name} contradicts the manifest")
        if self.labelled != (index.label_offsets is not None):
            raise BadFile(
                record.index_name, f"{self.files.name}: {record.index_name} has labels where it mustn't, or none"
            )
        return index

    def block(self, shard: int, block: int) -> list[NDArray]:
        """Return the tokens of a block's documents, each with the token that ends it.

        Raises:
            BadFile: the shard is missing, can't be reached, or is not what the manifest says.
        """
        index = self.index(shard)
        first = int(index.token_offsets[block]) // self.dtype.itemsize
        tokens = self._mapped(shard)[first : first + int(index.token_counts[block])]
        stop = int(index.document_counts[: block + 1].sum())
        ends = index.document_ends[stop - int(index.document_counts[block]) : stop]
        return np.split(tokens, ends[:-1].astype(np.int64))

    def labels(self, shard: int, block: int) -> NDArray[np.uint8]:
        """Return the labels of a block's tokens; of samples alone. Raises BadFile as `block` does."""
        index = self.index(shard)
        assert index.label_offsets is not None
        first = int(index.label_offsets[block])
        return self._mapped(shard).view(np.uint8)[first : first + int(index.token_counts[block])]

    def documents(self) -> Iterator[NDArray]:
        """Yield the tokens of all documents in storage order, each with the token that ends it."""
        for shard in range(len(self.shards)):
            self.expect([shard], range(shard + 1, len(self.shards))[:1])
            for block in range(len(self.index(shard).token_counts)):
                yield from self.block(shard, block)

    def read(self, pieces: Pieces, rows: NDArray) -> None:
        """Copy pieces to where they belong.

        Args:
            rows: (rows, tokens) of the dataset's dtype.

        Raises:
            BadFile: a shard is missing, can't be reached, or is not what the manifest says.
        """
        for shard, chosen in alike(pieces.shards):
            self._read_from(shard, pieces.at(chosen), rows)

    def _read_from(self, shard: int, pieces: Pieces, rows: NDArray) -> None:
        tokens, index = self._mapped(shard), self.index(shard)
        starts = index.token_offsets[pieces.blocks] // self.dtype.itemsize + pieces.offsets
        width = rows.shape[1]
        whole = pieces.lengths == width
        # A row that lies in one block is one run of tokens, and many of them are one call, few enough to stay in cache.
        runs = np.flatnonzero(whole)
        windows = sliding_window_view(tokens, width) if len(runs) else tokens
        for first in range(0, len(runs), RUNS_AT_ONCE):
            some = runs[first : first + RUNS_AT_ONCE]
            rows[pieces.rows[some]] = windows[starts[some]]
        parts = np.flatnonzero(~whole)
        arrays = (pieces.rows, pieces.columns, starts, pieces.lengths)
        for row, column, start, length in zip(*(array[parts].tolist() for array in arrays)):
            rows[row, column : column + length] = tokens[start : start + length]

    def read_labels(self, pieces: Pieces, rows: NDArray[np.uint8]) -> None:
        """Copy the labels of pieces of samples to where they belong; see `read`."""
        for shard, chosen in alike(pieces.shards):
            mine, index = pieces.at(chosen), self.index(shard)
            assert index.label_offsets is not None
            content = self._mapped(shard).view(np.uint8)
            starts = index.label_offsets[mine.blocks] + mine.offsets
            for row, column, start, length in zip(
                *(array.tolist() for array in (mine.rows, mine.columns, starts, mine.lengths))
            ):
                rows[row, column : column + length] = content[start : start + length]

    def _mapped(self, shard: int) -> NDArray:
        if shard not in self._tokens:
            with self.open(shard) as file:
                self._tokens[shard] = np.asarray(np.memmap(file, dtype=self.dtype, mode="r"))
        self._tokens.move_to_end(shard)
        return self._tokens[shard]

    def open(self, shard: int) -> BinaryIO:
        """Return a shard's tar, verified and open for reading.

        Raises:
            BadFile: it is missing, can't be reached, or is not what the manifest says.
        """
        return self._open(self.shards[shard].tar)

    def _open(self, file: StoredFile) -> BinaryIO:
        while True:
            try:
                return self.files.open(file, patient=not self._tokens)
            except NoRoom:
                if not self._tokens:
                    raise
                self._tokens.popitem(last=False)


def records_by_source(records: list[ShardRecord]) -> dict[str, list[int]]:
    """Return the numbers of each source's shards."""
    found: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        found.setdefault(record.source, []).append(number)
    return found
