"""Encoded documents to blocks to shards, with everything counted that the manifest says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from data_pipeline.encoding import EncodedDocument
from data_pipeline.manifest import SPLITS, ShardRecord, SourceCounts, SplitCounts
from data_pipeline.shards import Block, write_shard


class DatasetWriter:
    """Writes the shards of all splits into a folder.

    Documents are never cut: a block is closed before the document that would make it larger than `block_tokens`, and
    a document that is larger than that is a block of its own.

    Args:
        folder: where the shards go.
        block_tokens: tokens of a block, at most, where documents allow it.
        shard_tokens: a shard is closed when it has as many.
    """

    def __init__(self, folder: Path, block_tokens: int, shard_tokens: int):
        self._splits = {split: _SplitWriter(folder, split, block_tokens, shard_tokens) for split in SPLITS}
        self._sources: dict[str, Counter[str]] = {}

    def add(self, document: EncodedDocument) -> None:
        self._splits[document.split].add(document)
        counts = self._sources.setdefault(document.source, Counter())
        counts.update(documents=1, tokens=len(document.tokens), bytes=document.bytes)

    def close(self) -> None:
        """Write what is still in memory."""
        for split in self._splits.values():
            split.close()

    @property
    def shards(self) -> list[ShardRecord]:
        return [shard for split in self._splits.values() for shard in split.shards]

    def split_counts(self) -> dict[str, SplitCounts]:
        return {name: split.counts() for name, split in self._splits.items()}

    def source_counts(self) -> dict[str, SourceCounts]:
        return {source: SourceCounts(**counts) for source, counts in self._sources.items()}


class _SplitWriter:
    def __init__(self, folder: Path, split: str, block_tokens: int, shard_tokens: int):
        self.shards: list[ShardRecord] = []
        self._folder, self._split = folder, split
        self._block_tokens, self._shard_tokens = block_tokens, shard_tokens
        self._documents: list[EncodedDocument] = []
        self._pending = 0
        self._blocks: list[Block] = []
        self._text_bytes = 0

    def add(self, document: EncodedDocument) -> None:
        if self._documents and self._pending + len(document.tokens) > self._block_tokens:
            self._close_block()
        self._documents.append(document)
        self._pending += len(document.tokens)
        self._text_bytes += document.bytes

    def close(self) -> None:
        if self._documents:
            self._close_block()
        if self._blocks:
            self._close_shard()

    def counts(self) -> SplitCounts:
        return SplitCounts(
            documents=sum(shard.documents for shard in self.shards),
            tokens=sum(shard.tokens for shard in self.shards),
            bytes=self._text_bytes,
            blocks=sum(shard.blocks for shard in self.shards),
        )

    def _close_block(self) -> None:
        tokens = [document.tokens for document in self._documents]
        ends = np.cumsum([len(document_tokens) for document_tokens in tokens])
        self._blocks.append(Block(np.concatenate(tokens), ends))
        self._documents, self._pending = [], 0
        if sum(len(block.tokens) for block in self._blocks) >= self._shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        self.shards.append(write_shard(self._folder, self._split, len(self.shards), self._blocks))
        self._blocks = []
