"""Which documents of a corpus are duplicates of earlier ones: the flow.

    signatures of all parts → exact matches → near matches among what is left → duplicates of each part

Every step is a set of tasks that can be done in any order by any number of processes, and that are skipped where their
result is there already; so the answer is the same whatever was interrupted.

A process takes `memory_mb` and some 60 MB for itself, however many documents there are. Only the roots, 8 bytes a
document, are accessed at random, in a file that is mapped into memory.

With the default settings a document costs, however long it is, 276 bytes of signatures, and while near duplicates are
sought 512 bytes of sketches and records, 16 bytes of roots, and up to 256 bytes of links where it is a duplicate. It
takes 8 to 10 µs of one core, of which the 0.3 µs of uniting can't be divided among processes. What costs most is a page
template that very many documents share without being alike: up to 0.3 ms for each of these.

So for a billion documents of 5 kB: 280 GB of signatures, made in 40 core hours; 0.6 TB of work files; 3 core hours to
search, and one more because each of 4,800 ranges of keys is read from each of 4,800 sorted files, a sixteenth of that
with memory_mb=1024; 5 minutes of one process to unite. The sketches of candidates are read at random, so the work files
want to be on solid state disks.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.search import Run, Search, find_matches
from data_pipeline.deduplication.signatures import DuplicatesConfig, count_documents
from data_pipeline.deduplication.signed_parts import Corpus, Group, Numbering, SignedPart
from data_pipeline.foundation.files import whole_file

NO_DOCUMENT = -1
WRITING_BYTES = 64
"""Of memory for a document whose duplicate is written."""


@dataclass(frozen=True)
class Duplicates:
    """Of a part, per document.

    Args:
        originals: (documents,) int64, global number of the document that stays in its place, the first of its cluster;
            -1 where the document stays itself.
        exact: (documents,) bool, whether an earlier document has the same text; a duplicate that isn't exact is nearly
            the same as another document of its cluster.
    """

    originals: NDArray[np.int64]
    exact: NDArray[np.bool_]

    @property
    def stays(self) -> NDArray[np.bool_]:
        return self.originals == NO_DOCUMENT


def find_duplicates(parts: Sequence[SignedPart], folder: Path, config: DuplicatesConfig, run: Run) -> None:
    """Find the duplicates over all parts, and write each part's file of them.

    Args:
        parts: in the order of the corpus.
        folder: for work files; what an interrupted try with the same parts and settings left there is gone on with. It
            is deleted in the end.
        run: does the tasks.

    Raises:
        UserError: an unusable setting.
        Failure: a file of signatures is damaged, or was made with other settings.
    """
    config.check()
    if not all(part.duplicates.exists() for part in parts):
        corpus = Corpus(parts, [count_documents(part.signatures, config) for part in parts])
        work, memory = folder / f"memory-{config.memory_mb}", config.memory_mb << 20
        exact = near = None
        if config.exact.enabled:
            search = Search("exact duplicates", work / "exact", config.exact.matching(), None, memory)
            exact = find_matches(search, corpus, run)
        if config.near.enabled:
            search = Search("near duplicates", work / "near", config.near.matching(), exact, memory)
            near = find_matches(search, corpus, run)
        task = WriteDuplicates(_write_numbering(work, corpus), near or exact, exact)
        run("writing duplicates", task, corpus.groups(memory // WRITING_BYTES))
    shutil.rmtree(folder, ignore_errors=True)


def read_duplicates(path: Path) -> Duplicates:
    """Read a part's file."""
    from safetensors.numpy import load_file

    return Duplicates(**load_file(path))


@dataclass(frozen=True)
class WriteDuplicates:
    """Writes the files of a group's parts.

    Args:
        numbering: file of the numbering.
        roots, exact_roots: files of the roots of all matches, and of the exact ones; None where nobody looked.
    """

    numbering: Path
    roots: Path | None
    exact_roots: Path | None

    def __call__(self, group: Group) -> None:
        from safetensors.numpy import save

        numbering = Numbering(*np.load(self.numbering))
        rows = np.arange(group.rows.start, group.rows.stop)
        roots, exact_roots = (
            np.load(path, mmap_mode="r")[group.rows] if path else rows for path in (self.roots, self.exact_roots)
        )
        originals = np.where(roots == rows, NO_DOCUMENT, numbering.of(roots))
        exact = exact_roots != rows
        for part, place in group.places():
            if not part.duplicates.exists():
                with whole_file(part.duplicates) as file:
                    file.write(save({"originals": originals[place], "exact": exact[place]}))


def _write_numbering(folder: Path, corpus: Corpus) -> Path:
    path, numbering = folder / "numbering.npy", corpus.numbering()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, np.stack((numbering.rows, numbering.numbers)))
    return path
