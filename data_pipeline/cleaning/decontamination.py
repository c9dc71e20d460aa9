"""Leaves out documents that share n-grams with evaluation sets, so that nothing measured was learnt by heart."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.cleaning.stage import Dropped, Kept, SingleStage
from data_pipeline.cleaning.words import Words, words_of_letters
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

COMPRESSED = (".gz", ".zst")


@dataclass
class DecontaminationConfig:
    """Settings of decontamination.

    Args:
        enabled: leave out documents that share text with a set.
        sets: files of each evaluation set by its name: .jsonl, .json, .csv, .tsv, and .txt with a record on a line; .gz
            and .zst as well.
        fields: of a record that are looked at, by name; all that hold text if empty.
        ngram: words in a row that must be equal. Thirteen in Brown et al. 2020 (GPT-3), appendix C.
        minimum_ngram: words that a record shorter than `ngram` must have to be sought as a whole; those still shorter
            are not sought, because they may stand anywhere.
        minimum_matches: n-grams, or whole short records, that a document must share with one set.
    """

    enabled: bool = False
    sets: dict[str, list[str]] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    ngram: int = 13
    minimum_ngram: int = 8
    minimum_matches: int = 1


class Decontamination(SingleStage):
    """Drops a document that shares text with the set NAME as `contaminated_NAME`; with the first of several.

    Case, punctuation, white space and line ends make no difference. In scripts without spaces a character counts as a
    fraction of a word (see `words`): thirteen words are twenty-two Chinese characters.

    Raises:
        UserError: a set's file can't be read.
    """

    def __init__(self, config: DecontaminationConfig):
        self._index = EvaluationIndex(config)
        self._minimum = config.minimum_matches

    def apply(self, document: Document) -> Kept | Dropped:
        matches = self._index.matches(document.text)
        for name in self._index.counts:
            if matches[name] >= self._minimum:
                return Dropped(f"contaminated_{name}")
        return Kept(document)


@dataclass
class SetCounts:
    """What an evaluation set holds.

    Args:
        texts: fields of records with words in them.
        short: those with fewer words than an n-gram, sought as a whole.
        too_short: those with too few words to be sought.
    """

    texts: int = 0
    short: int = 0
    too_short: int = 0


class EvaluationIndex:
    """The n-grams of all sets by their hashes, and short records by the hash of their first words.

    Args:
        config: which sets, and how long an n-gram is.

    Attributes:
        counts: what each set holds, by its name.

    Raises:
        UserError: a set's file can't be read.
    """

    def __init__(self, config: DecontaminationConfig):
        self._ngram, self._shortest = config.ngram, config.minimum_ngram
        self._short: dict[int, list[tuple[int, int, str]]] = {}
        self.counts = {name: SetCounts() for name in config.sets}
        ngrams: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in config.sets}
        for name, files in config.sets.items():
            texts = (text for file in files for text in read_texts(Path(file), config.fields))
            for batch in _batches(texts):
                ngrams[name].append(self._add(name, batch))
        self._sets = {name: HashSet(np.concatenate(hashes)) for name, hashes in ngrams.items()}
        self._ngrams = HashSet(np.concatenate([hashes.ordered for hashes in self._sets.values()]))
        self._beginnings = HashSet(np.fromiter(self._short, np.uint64))

    def matches(self, text: str) -> Counter[str]:
        """Return how many n-grams and short records of each set are in a text."""
        found: Counter[str] = Counter()
        words, _ = words_of_letters([text])
        if self._ngrams:
            _, hashes = _runs(words, np.arange(len(words)), self._ngram)
            hashes = hashes[self._ngrams.places(hashes)]
            for name, ngrams in self._sets.items() if len(hashes) else ():
                found[name] += len(ngrams.places(hashes))
        if self._beginnings:
            starts, hashes = _runs(words, np.arange(len(words)), self._shortest)
            for place in self._beginnings.places(hashes):
                for length, whole, name in self._short[int(hashes[place])]:
                    run = np.array([starts[place], starts[place] + length])
                    if run[1] <= len(words) and words.run_hashes(run[:1], run[1:])[0] == whole:
                        found[name] += 1
        return found

    def _add(self, name: str, texts: list[str]) -> NDArray[np.uint64]:
        """Count texts of a set, keep those that are short, and return the hashes of the n-grams of the others."""
        words, ends = words_of_letters(texts)
        firsts = np.append(0, ends[:-1])
        firsts, ends = firsts[firsts < ends], ends[firsts < ends]
        numbers = np.repeat(np.arange(len(firsts)), ends - firsts)
        starts, hashes = _runs(words, np.arange(len(words)), self._ngram, ends[numbers])
        long = np.zeros(len(firsts), bool)
        long[numbers[starts]] = True
        begun, beginnings = _runs(words, firsts[~long], self._shortest, ends[~long])
        whole = ends[numbers[begun]]
        for beginning, length, run in zip(beginnings, whole - begun, words.run_hashes(begun, whole)):
            entries = self._short.setdefault(int(beginning), [])
            if (entry := (int(length), int(run), name)) not in entries:
                entries.append(entry)
        counts = self.counts[name]
        counts.texts += len(firsts)
        counts.short += len(begun)
        counts.too_short += int((~long).sum()) - len(begun)
        return hashes


class HashSet:
    """A set of 64-bit hashes in which many are looked up at once.

    A table of the first bits answers for most that aren't in it, without a search through memory.
    """

    def __init__(self, hashes: NDArray[np.uint64]):
        self.ordered = np.sort(hashes)
        bits = min(max(len(self.ordered).bit_length() + 4, 8), 24)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self.ordered >> self._shift] = True

    def __len__(self) -> int:
        return len(self.ordered)

    def places(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the indexes of those hashes that are in the set."""
        likely = np.flatnonzero(self._table[hashes >> self._shift])
        found = self.ordered[np.searchsorted(self.ordered, hashes[likely]).clip(max=len(self) - 1)]
        return likely[found == hashes[likely]]


_BATCH_CHARACTERS = 1 << 18


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _runs(
    words: Words, starts: NDArray[np.int64], length: int, limits: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return where runs of so many words start that end within their limits, or the text, and their hashes."""
    ends = words.run_ends(length, starts)
    whole = ends <= (len(words) if limits is None else limits)
    starts, ends = starts[whole], ends[whole]
    return starts, words.run_hashes(starts, ends)


def read_texts(path: Path, fields: Iterable[str] = ()) -> Iterator[str]:
    """Yield the texts of a file of an evaluation set, field by field.

    Args:
        path: plain or compressed. A .json file holds a list of records, or one on each line.
        fields: names of the fields that are wanted, at whatever depth; all if none.

    Raises:
        UserError: the file can't be read, or no record has any of the fields.
    """
    wanted = frozenset(fields)
    found = False
    try:
        with _open(path) as file:
            for text in _READERS[_kind(path)](file, wanted):
                found = True
                yield text
    except OSError as error:
        raise UserError(f"cleaning.decontamination: {path} can't be read: {error.strerror or error}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(
            f"cleaning.decontamination: {path} is no {_kind(path)} file that can be read: {error}"
        ) from None
    if not found:
        where = f" in the fields {', '.join(sorted(wanted))}" if wanted else ""
        raise UserError(f"cleaning.decontamination: {path} has no text{where}")


def check_decontamination(config: DecontaminationConfig) -> None:
    """Refuse settings that can't be meant, and files that aren't there. Raises UserError."""
    if config.ngram < 2:
        raise UserError(f"cleaning.decontamination.ngram={config.ngram} must be at least 2")
    if not 1 <= config.minimum_ngram <= config.ngram:
        raise UserError(
            f"cleaning.decontamination.minimum_ngram={config.minimum_ngram} must lie between 1 and ngram={config.ngram}"
        )
    if config.minimum_matches < 1:
        raise UserError(f"cleaning.decontamination.minimum_matches={config.minimum_matches} must be at least 1")
    for name, files in config.sets.items():
        if not re.fullmatch("[A-Za-z0-9_]+", name):
            raise UserError(
                f"cleaning.decontamination.sets: `{name}` must be a name of letters, digits and underscores"
            )
        if not files:
            raise UserError(f"cleaning.decontamination.sets.{name} names no file")
        for path in map(Path, files):
            if not path.is_file():
                raise UserError(f"cleaning.decontamination.sets.{name}: there is no file {path}")
            if _kind(path) not in _READERS:
                raise UserError(
                    f"cleaning.decontamination.sets.{name}: can't tell what kind of file {path} is; known are "
                    f"{', '.join(_READERS)}, also with {' or '.join(COMPRESSED)}"
                )


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def _open(path: Path) -> io.TextIOWrapper:
    import pyarrow as pa

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    stream: Any = pa.input_stream(str(path), compression=compression)
    return io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")


def _lines(file: io.TextIOWrapper, wanted: frozenset[str]) -> Iterator[str]:
    if wanted:
        raise ValueError("a .txt file has no fields; cleaning.decontamination.fields has no use for it")
    yield from file


def _json_lines(file: Iterable[str], wanted: frozenset[str]) -> Iterator[str]:
    for line in file:
        if line.strip():
            yield from _strings(json.loads(line), wanted)


def _json(file: io.TextIOWrapper, wanted: frozenset[str]) -> Iterator[str]:
    content = file.read()
    try:
        yield from _strings(json.loads(content), wanted)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _json_lines(io.StringIO(content), wanted)


def _table(file: io.TextIOWrapper, wanted: frozenset[str], **style: Any) -> Iterator[str]:
    rows = csv.reader(file, **style)
    header = next(rows, []) if wanted else []
    places = [place for place, name in enumerate(header) if name in wanted]
    for row in rows:
        yield from ([row[place] for place in places if place < len(row)] if wanted else row)


def _tabbed(file: io.TextIOWrapper, wanted: frozenset[str]) -> Iterator[str]:
    return _table(file, wanted, delimiter="\t", quoting=csv.QUOTE_NONE)


_READERS: dict[str, Callable[[Any, frozenset[str]], Iterator[str]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _tabbed,
}


def _strings(value: Any, wanted: frozenset[str]) -> Iterator[str]:
    """Yield all strings in a value, or those in its fields of the wanted names, with what is within them."""
    if isinstance(value, str):
        if not wanted:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, wanted)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, frozenset() if name in wanted else wanted)
