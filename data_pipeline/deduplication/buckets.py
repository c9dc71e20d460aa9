"""Links between documents of one bucket, which share a key, after a look at their whole sketches.

All documents of a bucket are compared with its first one. Where all are like it, they are linked. Where not, and the
bucket has up to LEADERS + 1 documents, all pairs are compared. A larger one has up to LEADERS leaders: the first
document, and then every first one that is like no leader before it; each document is compared with the leaders before
it. So the work grows with the bucket, not with its square: a million copies are a million comparisons.

What is like none of so many leaders is left to its other bands. They see it: where a page template fills a bucket with
documents that aren't alike, these differ in many slots, and two that are alike share bands of such slots, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.hashing import Hashes
from data_pipeline.deduplication.matching import Matching

LEADERS = 32
COMPARED_TOGETHER = 4096
"""Pairs whose sketches are in the processor's cache at a time."""

Documents = NDArray[np.int64]
Links = NDArray[np.int64]
"""(links, 2) documents, the smaller one first."""


class SketchFiles:
    """The sketches of all documents, by their number, in npy files of (documents, slots).

    Args:
        paths: of the files.
        first_documents: (files,) the number of each one's first document, ascending.
    """

    def __init__(self, paths: Sequence[Path], first_documents: Sequence[int], slots: int):
        self._paths, self._first, self._slots = paths, np.asarray(first_documents), slots

    def read(self, documents: Documents) -> NDArray[np.uint8]:
        """Return (documents, slots) sketches.

        Args:
            documents: (documents,) ascending.
        """
        # One file is mapped at a time, so that the pages of the others don't add up.
        bounds = np.searchsorted(documents, self._first)
        sketches = np.empty((len(documents), self._slots), np.uint8)
        for path, first, start, stop in zip(self._paths, self._first, bounds, [*bounds[1:], len(documents)]):
            if start < stop:
                sketches[start:stop] = np.load(path, mmap_mode="r")[documents[start:stop] - first]
        return sketches


class Linker:
    """Finds the links within buckets.

    Args:
        rows: sketches in memory at a time, more than LEADERS.
    """

    def __init__(self, sketches: SketchFiles, matching: Matching, rows: int):
        self._sketches, self._matching, self._rows = sketches, matching, rows

    def link_buckets(self, keys: Hashes, documents: Documents) -> Iterator[Links]:
        """Yield the links within all buckets, sorted as far as they were found together.

        Args:
            keys, documents: (records,) in the order of (key, document).
        """
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        sizes = np.diff(starts, append=len(keys))
        starts, sizes = starts[sizes > 1], sizes[sizes > 1]
        large = sizes > self._rows
        for start, size in zip(starts[large], sizes[large]):
            yield from self.link_bucket([documents[start : start + size]])
        starts, sizes = starts[~large], sizes[~large]
        first, ends = 0, np.cumsum(sizes)
        while first < len(starts):
            stop = int(np.searchsorted(ends, ends[first] - sizes[first] + self._rows, side="right"))
            yield _sorted(list(self._link_together(documents, starts[first:stop], sizes[first:stop])))
            first = stop

    def link_bucket(self, blocks: Iterable[Documents]) -> Iterator[Links]:
        """Yield the links within one bucket of more than LEADERS + 1 documents.

        Args:
            blocks: of the documents, ascending.
        """
        leaders: list[int] = []
        leading = np.empty((LEADERS, self._matching.slots), np.uint8)
        for documents in (block[i : i + self._rows] for block in blocks for i in range(0, len(block), self._rows)):
            sketches = self._sketches.read(documents)
            alone = np.ones(len(documents), bool)
            for number in range(LEADERS):
                after = 0
                if number == len(leaders):
                    if not alone.any():
                        break
                    place = int(np.argmax(alone))
                    leaders.append(int(documents[place]))
                    leading[number] = sketches[place]
                    alone[place] = False
                    after = place + 1
                alike = after + np.flatnonzero(self._agree(leading[number], sketches[after:]))
                alone[alike] = False
                yield _links(leaders[number], documents[alike])

    def _link_together(
        self, documents: Documents, starts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> Iterator[Links]:
        """Yield the links within buckets whose sketches fit into memory together."""
        ends = np.cumsum(sizes)
        members = documents[np.arange(ends[-1]) + np.repeat(starts - ends + sizes, sizes)]
        distinct, rows = np.unique(members, return_inverse=True)
        sketches = self._sketches.read(distinct)
        firsts = np.repeat(ends - sizes, sizes)
        blocks = [slice(first, first + COMPARED_TOGETHER) for first in range(0, len(rows), COMPARED_TOGETHER)]
        alike = np.concatenate([self._agree(sketches[rows[firsts[b]]], sketches[rows[b]]) for b in blocks])
        linked = alike & (firsts < np.arange(len(rows)))
        yield _links(members[firsts[linked]], members[linked])
        for bucket in np.flatnonzero((sizes > 2) & ~np.logical_and.reduceat(alike, ends - sizes)):
            here = slice(ends[bucket] - sizes[bucket], ends[bucket])
            if sizes[bucket] > LEADERS + 1:
                yield from self.link_bucket([members[here]])
            else:
                compared = sketches[rows[here]]
                one, other = np.nonzero(np.triu(self._agree(compared[:, None], compared), 1))
                yield _links(members[here][one], members[here][other])

    def _agree(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return (…,) whether enough of the last axis' slots agree."""
        return (one == other).sum(-1, dtype=np.uint16) >= self._matching.agreement


def _links(one: int | Documents, other: Documents) -> Links:
    return np.stack(np.broadcast_arrays(one, other), axis=1)


def _sorted(found: list[Links]) -> Links:
    """Return all links in ascending order, each once: most pairs share several bands."""
    links = np.concatenate(found)
    links = links[np.lexsort((links[:, 1], links[:, 0]))]
    return links[np.concatenate(([True], (links[1:] != links[:-1]).any(axis=1)))[: len(links)]]
