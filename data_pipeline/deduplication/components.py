"""Connected components over a file: union-find on an array that is mapped into memory, many links at once.

A document's root is the smallest document of its component, so the result doesn't depend on the order of the links.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.foundation.files import whole_file

Parents = NDArray[np.int64]


def write_roots(path: Path, start: Path | None, documents: int, links: Iterable[NDArray[np.int64]], rows: int) -> None:
    """Write the root of every document, (documents,) int64, to an npy file that appears when it is whole.

    Args:
        path: of the file.
        start: file of roots to start with; all documents are their own without.
        documents: number of all documents.
        links: arrays of (links, 2) documents.
        rows: documents and links in memory at a time.
    """
    blocks = [slice(first, min(first + rows, documents)) for first in range(0, documents, rows)]
    with whole_file(path) as file:
        parents = np.lib.format.open_memmap(file.name, "w+", np.int64, (documents,))
        roots = None if start is None else np.load(start, mmap_mode="r")
        for block in blocks:
            parents[block] = np.arange(block.start, block.stop) if roots is None else roots[block]
        for pairs in links:
            for first in range(0, len(pairs), rows):
                unite(parents, pairs[first : first + rows])
        for block in blocks:
            find(parents, np.arange(block.start, block.stop))
        parents.flush()


def unite(parents: Parents, links: NDArray[np.int64]) -> None:
    """Join the components of linked documents.

    Args:
        parents: (documents,) a smaller document of the same component, or itself, for each; changed in place.
        links: (links, 2) documents.
    """
    one, other = links[:, 0], links[:, 1]
    while len(one):
        one, other = find(parents, one), find(parents, other)
        apart = one != other
        low, high = np.minimum(one[apart], other[apart]), np.maximum(one[apart], other[apart])
        # Of several roots that could take the same one under them the smallest does, whatever their order; what that
        # leaves apart is joined in the next round.
        np.minimum.at(parents, high, low)
        one, other = low, high


def find(parents: Parents, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the roots of documents, and shorten the ways to them for the next time."""
    while True:
        up = parents[documents]
        above = parents[up]
        if np.array_equal(up, above):
            return up
        parents[documents] = above
