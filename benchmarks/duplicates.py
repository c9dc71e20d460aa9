"""`python -m benchmarks.duplicates TEXTS [DOCUMENTS …]`: how fast, how complete, how frugal duplicates are found.

TEXTS is a .txt, .jsonl or .parquet file: the speed of signatures against plain Python, and what is found against all
pairs compared in plain Python. Then time and memory at so many documents of made-up signatures.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.plain_shingles import plain_shingles, similar_pairs
from benchmarks.rounds import compare
from data_pipeline.deduplication.duplicates import find_duplicates, read_duplicates
from data_pipeline.deduplication.minhash import sign
from data_pipeline.deduplication.search import UniteLinks
from data_pipeline.deduplication.signatures import DuplicatesConfig, save_signatures, write_signatures
from data_pipeline.deduplication.signed_parts import SignedPart
from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document
from data_pipeline.readers.files import FilesConfig

Item = TypeVar("Item")
Pair = tuple[int, int]
DOCUMENTS_OF_PART = 4000


@dataclass(frozen=True)
class Evaluation:
    """What was found in some texts, and what there is.

    Args:
        similarities: exact Jaccard similarity of all pairs that have a shingle in common.
        links: pairs that were linked directly as nearly the same, each with its exact similarity.
        originals: (texts,) as in `Duplicates`.
        exact: (texts,) as in `Duplicates`.
    """

    similarities: dict[Pair, float]
    links: dict[Pair, float]
    originals: np.ndarray
    exact: np.ndarray

    def found(self, low: float, high: float = 1.0) -> list[bool]:
        """Return for every pair of such a similarity, both included, whether it is in one cluster."""
        clusters = np.where(self.originals < 0, np.arange(len(self.originals)), self.originals)
        pairs = [pair for pair, similarity in self.similarities.items() if low <= similarity <= high]
        return [bool(clusters[one] == clusters[other]) for one, other in pairs]


def evaluate(texts: Sequence[str], config: DuplicatesConfig) -> Evaluation:
    """Find the duplicates among some texts, and compare all pairs in plain Python."""
    links: list[Pair] = []

    def watched(name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(task, UniteLinks) and task.search.matching.name == "signatures":
                assert isinstance(item, int)
                links.extend((one, other) for some in task.search.links(item, 1 << 20) for one, other in some.tolist())
            task(item)

    with tempfile.TemporaryDirectory() as name:
        part = SignedPart(Path(name, "signatures"), Path(name, "duplicates"), 0)
        write_signatures(part.signatures, texts, config)
        find_duplicates([part], Path(name, "work"), config, watched)
        found = read_duplicates(part.duplicates)
    similarities = similar_pairs(texts, config.near.ngram)
    return Evaluation(similarities, {pair: similarities.get(pair, 0.0) for pair in links}, found.originals, found.exact)


def quality_lines(texts: Sequence[str], config: DuplicatesConfig) -> Iterator[str]:
    """Say what was found among all pairs by their similarity, and what was linked directly."""
    result, threshold = evaluate(texts, config), config.near.threshold
    near = np.flatnonzero((result.originals >= 0) & ~result.exact)
    yield f"{len(texts):,} documents: {result.exact.sum():,} exact duplicates, {len(near):,} near ones"
    for low in (threshold - 0.15, threshold - 0.05, threshold, threshold + 0.05, threshold + 0.1):
        found = result.found(low)
        yield f"pairs of similarity {low:.2f} or more: {sum(found):,} of {len(found):,} are in one cluster"
    for low in (threshold, threshold - 0.05, threshold - 0.15):
        alike = sum(similarity >= low for similarity in result.links.values())
        yield f"pairs linked directly: {alike:,} of {len(result.links):,} have a similarity of {low:.2f} or more"
    for number in near[:: len(near) // 3 + 1]:
        text, original = texts[number], texts[result.originals[number]]
        same = next((place for place, (a, b) in enumerate(zip(text, original)) if a != b), 0)
        yield f"  the same for {same} characters, then {text[same:][:60]!r} for {original[same:][:60]!r}"


def speed_lines(texts: Sequence[str], config: DuplicatesConfig, rounds: int = 3) -> Iterator[str]:
    """Compare bytes of text per second: shingles and signatures, against plain Python with the same MinHash."""
    from rensa import RMinHash

    size = sum(len(text.encode()) for text in texts)

    def ours() -> int:
        sign(texts, config.near)
        return size

    def plain() -> int:
        for text in texts:
            minhash = RMinHash(config.near.permutations, seed=1)
            minhash.update([" ".join(shingle) for shingle in plain_shingles(text, config.near.ngram)])
            minhash.digest()
        return size

    yield compare(ours, plain, rounds).line("signatures", "bytes/s", "plain Python")


def scale_lines(documents: int) -> Iterator[str]:
    """Measure the flow on made-up signatures, in a process of its own: a tenth exact copies, near ones three tenths."""
    with tempfile.TemporaryDirectory() as name:
        parts = _made_up(Path(name), documents)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, peak, duplicates = pool.submit(_find_and_measure, parts, Path(name, "work")).result()
    yield (
        f"{documents:,} documents, {duplicates:,} of them duplicates: {seconds:.1f} s in one process, "
        f"{seconds / documents * 1e6:.1f} µs a document, at most {peak / 1e6:.0f} MB resident"
    )


def _made_up(folder: Path, documents: int) -> list[SignedPart]:
    draw, config = np.random.default_rng(0), DuplicatesConfig()
    slots = config.near.permutations
    originals = draw.integers(0, 256, (documents // 10, slots), np.uint8)
    parts = []
    for number, first in enumerate(range(0, documents, DOCUMENTS_OF_PART)):
        count = min(DOCUMENTS_OF_PART, documents - first)
        keys, signatures = (draw.integers(0, 256, (count, width), np.uint8) for width in (16, slots))
        near = np.flatnonzero(draw.random(count) < 0.3)
        signatures[near] = originals[draw.integers(0, len(originals), len(near))]
        edited = near[:, None], draw.integers(0, slots, (len(near), slots // 12))
        signatures[edited] = draw.integers(0, 256, edited[1].shape, np.uint8)
        copies = np.flatnonzero(draw.random(count) < 0.1)
        copied = draw.integers(0, count, len(copies))
        keys[copies], signatures[copies] = keys[copied], signatures[copied]
        part = SignedPart(folder / f"{number}.signatures", folder / f"{number}.duplicates", first)
        tensors = {"text_keys": keys, "signatures": signatures, "shingles": np.full(count, 300, np.uint32)}
        save_signatures(part.signatures, tensors, count, config)
        parts.append(part)
    return parts


def _find_and_measure(parts: Sequence[SignedPart], work: Path) -> tuple[float, int, int]:
    """Return seconds, peak resident bytes, and the number of duplicates."""
    started = time.perf_counter()
    find_duplicates(parts, work, DuplicatesConfig(), one_by_one)
    seconds = time.perf_counter() - started
    duplicates = sum(int((~read_duplicates(part.duplicates).stays).sum()) for part in parts)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, duplicates


def one_by_one(name: str, task: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Run the tasks of a phase in this process."""
    for item in items:
        task(item)


def duplicates_lines(source: Path, sizes: Sequence[int]) -> Iterator[str]:
    """Yield all lines: of a file of texts, and of so many made-up documents."""
    corpus = open_corpus(FilesConfig([str(source)]))
    texts = [item.text for unit in corpus.units() for item in corpus.read(unit) if isinstance(item, Document)]
    config = DuplicatesConfig()
    yield from speed_lines(texts, config)
    yield from quality_lines(texts, config)
    for documents in sizes:
        yield from scale_lines(documents)


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for line in duplicates_lines(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
