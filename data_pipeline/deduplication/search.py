"""The search for all documents of a corpus that match, in three phases of tasks that communicate by files:

    sort    per group of parts: the keys of all bands, sorted, and a copy of the sketches in one file
    link    per range of keys: buckets of documents with the same key, compared, and links between those that match
    unite   once: the links to components, and the smallest document of each

Groups and ranges are made so that each fits the given memory, whatever the size of the corpus; a key that more
documents share than fit is streamed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.buckets import LEADERS, Linker, SketchFiles
from data_pipeline.deduplication.components import write_roots
from data_pipeline.deduplication.matching import Matching
from data_pipeline.deduplication.signatures import read_signatures
from data_pipeline.deduplication.signed_parts import Corpus, Group
from data_pipeline.deduplication.sorted_records import KeyRange, RecordFiles, equal_ranges, write_records
from data_pipeline.foundation.files import whole_file

Item = TypeVar("Item")
SORTING_BYTES = 64
"""Of memory for a record of 16 bytes while it is sorted."""
UNITING_BYTES = 128
"""Of memory for a link of 16 bytes while it is followed to both roots."""
RANGE_FILL = 0.8
"""Of the memory is used by an average range of keys, so that hardly one has to be divided."""


class Run(Protocol):
    """Calls `task(item)` for every item, in any order, in any process that sees the same files."""

    def __call__(self, name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None: ...


@dataclass(frozen=True)
class Search:
    """What the tasks of a search have in common.

    Args:
        name: for a person.
        folder: of its files, which are not those of a search with other parts, matching or memory.
        matching: which documents match.
        start: file of the roots of an earlier search, whose duplicates take no part in this one; None without.
        memory: bytes that a task may use for its arrays.
    """

    name: str
    folder: Path
    matching: Matching
    start: Path | None
    memory: int

    @property
    def roots(self) -> Path:
        """The result: (documents,) int64 npy, the first document of the component of each."""
        return self.folder / "roots.npy"

    def file(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"{number:06d}"

    def links(self, ranges: int, rows: int) -> Iterator[NDArray[np.int64]]:
        """Yield the links of all ranges, (links, 2) documents, at most so many at a time."""
        for number in range(ranges):
            with open(self.file("links", number), "rb") as file:
                while len(numbers := np.fromfile(file, np.int64, 2 * rows)):
                    yield numbers.reshape(-1, 2)


def find_matches(search: Search, corpus: Corpus, run: Run) -> Path:
    """Find the roots of all documents; return their file."""
    if not search.roots.exists():
        for kind in ("records", "sketches", "links"):
            (search.folder / kind).mkdir(parents=True, exist_ok=True)
        matching, memory = search.matching, search.memory
        groups = corpus.groups(memory // (matching.slots + matching.bands * SORTING_BYTES))
        first_rows = tuple(group.first_row for group in groups)
        sorting_bytes = corpus.documents * matching.bands * SORTING_BYTES
        ranges = equal_ranges(math.ceil(sorting_bytes / (memory * RANGE_FILL)) or 1)
        run(f"sorting {search.name}", SortGroup(search), groups)
        run(f"linking {search.name}", LinkRange(search, first_rows), list(enumerate(ranges)))
        run(f"uniting {search.name}", UniteLinks(search, corpus.documents), [len(ranges)])
    for kind in ("records", "sketches", "links"):
        shutil.rmtree(search.folder / kind, ignore_errors=True)
    return search.roots


@dataclass(frozen=True)
class SortGroup:
    """Writes the sketches of a group, and the keys of those of its documents that take part, sorted."""

    search: Search

    def __call__(self, group: Group) -> None:
        records = self.search.file("records", group.number)
        if records.exists():
            return
        matching, rows = self.search.matching, np.arange(group.rows.start, group.rows.stop)
        sketches = np.empty((len(rows), matching.slots), np.uint8)
        takes_part = np.ones(len(rows), bool)
        if self.search.start is not None:
            takes_part &= np.load(self.search.start, mmap_mode="r")[group.rows] == rows
        for part, place in group.places():
            sketches[place] = read_signatures(part.signatures, matching.name)
            if matching.counted_in is not None:
                takes_part[place] &= read_signatures(part.signatures, matching.counted_in) > 0
        with whole_file(self.search.file("sketches", group.number)) as file:
            np.save(file, sketches)
        keys = matching.band_keys(sketches)[:, takes_part]
        write_records(records, keys.ravel(), np.tile(rows[takes_part], len(keys)))


@dataclass(frozen=True)
class LinkRange:
    """Writes the links between documents that share a key of a numbered range: (links, 2) int64, without a header.

    Args:
        first_rows: (groups,) row of each group's first document.
    """

    search: Search
    first_rows: tuple[int, ...]

    def __call__(self, item: tuple[int, KeyRange]) -> None:
        number, keys = item
        path = self.search.file("links", number)
        if path.exists():
            return
        sketches, records = (
            [self.search.file(kind, group) for group in range(len(self.first_rows))] for kind in ("sketches", "records")
        )
        matching = self.search.matching
        rows = max(LEADERS + 1, self.search.memory // (4 * matching.slots))
        linker = Linker(SketchFiles(sketches, self.first_rows, matching.slots), matching, rows)
        files = RecordFiles(records)
        with whole_file(path) as file:
            for links in self._links(keys, files, linker):
                file.write(links.tobytes())

    def _links(self, keys: KeyRange, files: RecordFiles, linker: Linker) -> Iterator[NDArray[np.int64]]:
        count, middle = files.survey(keys)
        if count * SORTING_BYTES <= self.search.memory:
            yield from linker.link_buckets(*files.read(keys))
        elif keys.high - keys.low == 1:
            yield from linker.link_bucket(files.documents(keys.low))
        else:
            for part in keys.around(middle):
                yield from self._links(part, files, linker)


@dataclass(frozen=True)
class UniteLinks:
    """Writes the roots from the links of all ranges."""

    search: Search
    documents: int

    def __call__(self, ranges: int) -> None:
        if not self.search.roots.exists():
            rows = max(1, self.search.memory // UNITING_BYTES)
            links = self.search.links(ranges, rows)
            write_roots(self.search.roots, self.search.start, self.documents, links, rows)
