"""Reads any span of tokens from a dataset folder's shards, mapped into memory through their indexes.

A shard is checked against the manifest before its first token is used: damaged data is never trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.manifest import Manifest, ShardRecord
from data_pipeline.order import Span
from data_pipeline.shards import ShardIndex, load_index


class Store:
    """The blocks of one split, numbered over all its shards.

    Args:
        folder: of the dataset.
        manifest: the folder's.
        split: `train` or `validation`.

    Raises:
        UserError: the dataset has no such split.
        Failure: an index is missing or damaged.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str):
        self.folder, self.dtype = folder, np.dtype(manifest.dtype)
        self._records = [record for record in manifest.shards if record.split == split]
        if not self._records:
            known = ", ".join(sorted({record.split for record in manifest.shards}))
            raise UserError(f"{folder} has no split `{split}`; it has {known}")
        self._indexes = [self._load_index(record) for record in self._records]
        self.block_tokens = np.concatenate([index.token_counts for index in self._indexes])
        self._first_block = np.cumsum([0] + [len(index.token_counts) for index in self._indexes])
        self._first_document = [
            np.concatenate(([0], np.cumsum(index.document_counts))).astype(np.int64) for index in self._indexes
        ]
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def read(self, spans: list[Span], out: NDArray) -> list[int]:
        """Copy spans one behind the other into `out` and return the document ends among them.

        Args:
            spans: where the tokens lie.
            out: (tokens,) of the dataset's dtype, as long as the spans together.

        Returns:
            ends of documents as offsets into `out`, exclusive, ascending.

        Raises:
            Failure: a shard is missing or is not what the manifest says.
        """
        ends: list[int] = []
        at = 0
        for block, start, stop in spans:
            shard = int(np.searchsorted(self._first_block, block, side="right")) - 1
            local = block - int(self._first_block[shard])
            index = self._indexes[shard]
            first = int(index.token_offsets[local]) + start * self.dtype.itemsize
            mapped = self._map(shard)[first : first + (stop - start) * self.dtype.itemsize]
            out[at : at + stop - start] = mapped.view(self.dtype)
            documents = index.document_ends[self._first_document[shard][local] : self._first_document[shard][local + 1]]
            low, high = np.searchsorted(documents, (start, stop), side="right")
            ends += [int(end) - start + at for end in documents[low:high]]
            at += stop - start
        return ends

    def _load_index(self, record: ShardRecord) -> ShardIndex:
        path = self.folder / record.name.replace(".tar", ".idx")
        self._check(path, record.index_bytes, record.index_xxh3_128)
        return load_index(path)

    def _map(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._maps:
            record = self._records[shard]
            path = self.folder / record.name
            self._check(path, record.bytes, record.xxh3_128)
            self._maps[shard] = np.memmap(path, dtype=np.uint8, mode="r")
        return self._maps[shard]

    def _check(self, path: Path, size: int, digest: str) -> None:
        mend = (
            f"run `headrace verify source={self.folder}` to see what else is damaged, then restore or prepare it again"
        )
        if not path.exists():
            raise Failure(f"{path} is missing: {mend}")
        if path.stat().st_size != size:
            raise Failure(f"{path} has {path.stat().st_size} bytes instead of {size}: {mend}")
        if file_hash(path) != digest:
            raise Failure(f"{path} is damaged: its checksum is not the manifest's; {mend}")
