"""Copies pieces of blocks out of a dataset folder's shards, which are mapped into memory through their indexes.

A shard is checked against the manifest before its first token is used: damaged data is never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.manifest import Manifest, ShardRecord
from data_pipeline.pieces import Pieces, alike
from data_pipeline.shards import ShardIndex, load_index

RUNS_AT_ONCE = 128


class Store:
    """The shards of one split, by their numbers.

    Args:
        folder: of the dataset.
        manifest: the folder's.
        split: `train` or `validation`.

    Raises:
        UserError: the dataset has no such split.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str):
        self.folder, self.dtype, self.end_of_document = folder, np.dtype(manifest.dtype), manifest.end_of_document
        self.shards = [record for record in manifest.shards if record.split == split]
        if not self.shards:
            known = ", ".join(sorted({record.split for record in manifest.shards}))
            raise UserError(f"{folder} has no split `{split}`; it has {known}")
        self._indexes: dict[int, ShardIndex] = {}
        self._tokens: dict[int, NDArray] = {}

    def require_files(self) -> None:
        """Look whether every file is there in its size, without reading any. Raises Failure where one is not."""
        for record in self.shards:
            for name, size in ((record.name, record.bytes), (record.index_name, record.index_bytes)):
                self._require(self.folder / name, size)

    def index(self, shard: int) -> ShardIndex:
        """Return a shard's index, read when first asked for.

        Raises:
            Failure: it is missing or is not what the manifest says.
        """
        if shard not in self._indexes:
            record = self.shards[shard]
            path = self.folder / record.index_name
            self._check(path, record.index_bytes, record.index_xxh3_128)
            self._indexes[shard] = load_index(path)
        return self._indexes[shard]

    def block(self, shard: int, block: int) -> list[NDArray]:
        """Return the tokens of a block's documents, each with the token that ends it.

        Raises:
            Failure: the shard is missing or is not what the manifest says.
        """
        index = self.index(shard)
        first = int(index.token_offsets[block]) // self.dtype.itemsize
        tokens = self._mapped(shard)[first : first + int(index.token_counts[block])]
        stop = int(index.document_counts[: block + 1].sum())
        ends = index.document_ends[stop - int(index.document_counts[block]) : stop]
        return np.split(tokens, ends[:-1].astype(np.int64))

    def documents(self) -> Iterator[NDArray]:
        """Yield the tokens of all documents in storage order, each with the token that ends it."""
        for shard in range(len(self.shards)):
            for block in range(len(self.index(shard).token_counts)):
                yield from self.block(shard, block)

    def read(self, pieces: Pieces, rows: NDArray) -> None:
        """Copy pieces to where they belong.

        Args:
            rows: (rows, tokens) of the dataset's dtype.

        Raises:
            Failure: a shard is missing or is not what the manifest says.
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

    def _mapped(self, shard: int) -> NDArray:
        if shard not in self._tokens:
            record = self.shards[shard]
            path = self.folder / record.name
            self._check(path, record.bytes, record.xxh3_128)
            self._tokens[shard] = np.asarray(np.memmap(path, dtype=self.dtype, mode="r"))
        return self._tokens[shard]

    def _check(self, path: Path, size: int, digest: str) -> None:
        self._require(path, size)
        if file_hash(path) != digest:
            raise Failure(f"{path} is damaged: its checksum is not the manifest's; {self._mend}")

    def _require(self, path: Path, size: int) -> None:
        if not path.exists():
            raise Failure(f"{path} is missing: {self._mend}")
        if path.stat().st_size != size:
            raise Failure(f"{path} has {path.stat().st_size} bytes instead of {size}: {self._mend}")

    @property
    def _mend(self) -> str:
        return (
            f"run `headrace verify source={self.folder}` to see what else is damaged, then restore or prepare it again"
        )


def records_by_source(records: list[ShardRecord]) -> dict[str, list[int]]:
    """Return the numbers of each source's shards."""
    found: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        found.setdefault(record.source, []).append(number)
    return found
