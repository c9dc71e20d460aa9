"""Rules that people's writing rarely breaks: of Gopher, C4 and FineWeb, made to work in scripts without spaces.

Sources: Rae et al. 2021 (Gopher), table A1; Raffel et al. 2020 (C4), section 2.2; Penedo et al. 2024 (FineWeb), section
3.6. They are about English text from the web. What a rule means elsewhere is decided by the text's own script, not by a
language that somebody has given it.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from data_pipeline.cleaning.repetition import Repetition
from data_pipeline.cleaning.stage import Dropped, Kept, SingleStage
from data_pipeline.cleaning.stop_words import SCRIPTS_WITH_STOP_WORDS, STOP_RUNS, STOP_WORDS
from data_pipeline.cleaning.words import HANGUL, LAO, LETTER, LETTERS, SPACE, THAI, WHOLE, Words, words_of_text
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document


@dataclass
class QualityConfig:
    """Settings of the quality rules: the published thresholds. A rule whose threshold is None doesn't apply.

    A line is what has more than white space between two line ends; a paragraph is parted from others by an empty line.

    Args:
        enabled: apply the rules.
        minimum_words, maximum_words: in the text; a Chinese character counts as 0.6 of a word. Gopher.
        minimum_word_length, maximum_word_length: mean, in letters, of the words of scripts with spaces, where these are
            most of the text; a Hangul syllable counts as two letters. Gopher.
        maximum_hashes, maximum_ellipses: `#`, and `…` or `...`, per word. Gopher.
        maximum_bullet_lines: share of lines that start with a bullet. Gopher.
        maximum_ellipsis_lines: share of lines that end with an ellipsis. Gopher.
        minimum_alphabetic_words: share of words with a letter. Gopher.
        minimum_stop_words: different ones in the text, of those that its script has most often; a script that we know
            none of passes. Gopher.
        maximum_duplicate_lines, maximum_duplicate_paragraphs: share of those that have occurred before. Gopher.
        maximum_duplicate_line_characters: share of characters in lines that have occurred before. FineWeb; Gopher 0.2.
        maximum_duplicate_paragraph_characters: the same of paragraphs. Gopher.
        maximum_top_ngrams: share of characters in the most frequent n-gram of n = 2, 3, 4 words. Gopher.
        maximum_duplicate_ngrams: share of characters in n-grams that have occurred before, n = 5 to 10. Gopher.
        minimum_punctuated_lines: share of lines that end with a punctuation mark that ends a sentence. FineWeb.
        maximum_short_lines: share of lines of at most `short_line` letters; a Chinese character counts as 3.6. FineWeb.
        short_line: in letters.
        lorem_ipsum: drop texts with the filler of designers. C4.
        curly_brace: drop texts with a curly brace. C4; off, because code is text as well.
        remove_javascript_lines: remove lines that ask for JavaScript. C4.
        remove_policy_lines: remove lines about cookies, privacy policies and terms of use. C4.
    """

    enabled: bool = False
    minimum_words: int | None = 50
    maximum_words: int | None = 100_000
    minimum_word_length: float | None = 3
    maximum_word_length: float | None = 10
    maximum_hashes: float | None = 0.1
    maximum_ellipses: float | None = 0.1
    maximum_bullet_lines: float | None = 0.9
    maximum_ellipsis_lines: float | None = 0.3
    minimum_alphabetic_words: float | None = 0.8
    minimum_stop_words: int | None = 2
    maximum_duplicate_lines: float | None = 0.3
    maximum_duplicate_paragraphs: float | None = 0.3
    maximum_duplicate_line_characters: float | None = 0.1
    maximum_duplicate_paragraph_characters: float | None = 0.2
    maximum_top_ngrams: list[float] | None = field(default_factory=lambda: [0.2, 0.18, 0.16])
    maximum_duplicate_ngrams: list[float] | None = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1])
    minimum_punctuated_lines: float | None = 0.12
    maximum_short_lines: float | None = 0.67
    short_line: int = 30
    lorem_ipsum: bool = True
    curly_brace: bool = False
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True


class Quality(SingleStage):
    """Drops a text by the first rule that it breaks; the reason is the rule's name. Before, it removes lines."""

    def __init__(self, config: QualityConfig):
        self._short_line = config.short_line
        self._rules = _rules(config)
        self._unwanted: dict[str, tuple[str, ...]] = {}
        if config.remove_javascript_lines:
            self._unwanted["javascript_lines_removed"] = JAVASCRIPT
        if config.remove_policy_lines:
            self._unwanted["policy_lines_removed"] = POLICIES

    def apply(self, document: Document) -> Kept | Dropped:
        text, changes = _without_lines(document.text, self._unwanted)
        measures = Measures(text, self._short_line)
        for reason, breaks in self._rules:
            if breaks(measures):
                return Dropped(reason)
        if not text.strip():
            return Dropped("too_few_words")
        return Kept(replace(document, text=text) if changes else document, changes)


def check_quality(config: QualityConfig) -> None:
    """Refuse thresholds that can't be meant. Raises UserError."""
    for key, value in asdict(config).items():
        if key in _SHARES and value is not None and not 0 <= value <= 1:
            raise UserError(f"cleaning.quality.{key}={value} is a share: it must lie between 0 and 1, or be null")
    for key, most, first in (("maximum_top_ngrams", 3, 2), ("maximum_duplicate_ngrams", 6, 5)):
        limits = getattr(config, key) or []
        if len(limits) > most or not all(0 <= limit <= 1 for limit in limits):
            raise UserError(
                f"cleaning.quality.{key}={limits} must be at most {most} shares between 0 and 1, for n = {first} and on"
            )
    for key in ("words", "word_length"):
        low, high = getattr(config, f"minimum_{key}"), getattr(config, f"maximum_{key}")
        if low is not None and high is not None and low > high:
            raise UserError(f"cleaning.quality.minimum_{key}={low} is more than maximum_{key}={high}")
    if config.short_line < 1:
        raise UserError(f"cleaning.quality.short_line={config.short_line} must be at least 1")


_SHARES = (
    *("maximum_bullet_lines", "maximum_ellipsis_lines", "minimum_alphabetic_words", "maximum_duplicate_lines"),
    *("maximum_duplicate_paragraphs", "maximum_duplicate_line_characters", "maximum_duplicate_paragraph_characters"),
    *("minimum_punctuated_lines", "maximum_short_lines"),
)


class Measures:
    """What the rules are about, each measured when it is first asked for. None: has no meaning for this text.

    Args:
        text: to be measured.
        short_line: letters in a line that is called short, at most.
    """

    def __init__(self, text: str, short_line: int):
        self._text = text
        self._short_line = short_line

    def words(self) -> float:
        return self._words.count

    def word_length(self) -> float | None:
        words = self._words
        spaced = words.shares == WHOLE
        if spaced.sum() <= words.count / 2:
            return None
        lengths = words.lengths
        if (words.kinds == HANGUL).any():
            lengths = lengths + np.add.reduceat((words.kinds == HANGUL).astype(np.int64), words.starts)
        return float(lengths[spaced].mean())

    def hashes(self) -> float:
        return self._text.count("#") / max(self.words(), 1)

    def ellipses(self) -> float:
        # In Chinese, two of the characters are one ellipsis.
        count = self._text.count("...") + self._text.count("…") - self._text.count("……")
        return count / max(self.words(), 1)

    def alphabetic_words(self) -> float:
        words = self._words
        if not len(words):
            return 0.0
        alphabetic = np.logical_or.reduceat(words.kinds >= LETTER, words.starts)
        return float(words.shares[alphabetic].sum() / words.shares.sum())

    def stop_words(self) -> int | None:
        words = self._words
        known = _hashes_of_stop_words()
        places = np.searchsorted(known, words.hashes).clip(max=len(known) - 1)
        found = int(np.count_nonzero(np.bincount(places[known[places] == words.hashes])))
        if ((words.kinds == HANGUL) | (words.kinds >= THAI)).any():
            found += sum(word in self._text for word in STOP_RUNS)
        return found if found or self._script_has_stop_words() else None

    def bullet_lines(self) -> float:
        return self._share_of_lines(line[0] in BULLETS for line in self._lines)

    def ellipsis_lines(self) -> float:
        return self._share_of_lines(line.endswith(("…", "...")) for line in self._lines)

    def punctuated_lines(self) -> float | None:
        kinds = self._words.kinds[self._words.starts]
        if ((kinds == THAI) | (kinds == LAO)).sum() > len(kinds) / 2:  # their sentences end with a space
            return None
        return self._share_of_lines(
            line[-1] in SENTENCE_ENDS or (line[-1] in CLOSING and line[-2:-1] in SENTENCE_ENDS) for line in self._lines
        )

    def short_lines(self) -> float:
        words = self._words
        starts = np.append(0, np.flatnonzero(words.codes == ord("\n")) + 1)
        starts = starts[starts < len(words.codes)]
        if not len(starts):
            return 0.0
        letters = LETTERS[words.kinds]
        letters[words.codes == ord("\n")] = 0
        filled = np.logical_or.reduceat(words.kinds != SPACE, starts)
        short = np.add.reduceat(letters, starts)[filled] <= 10 * self._short_line
        return float(short.mean()) if len(short) else 0.0

    def duplicate_lines(self) -> float:
        return self._duplicates_of_lines[0]

    def duplicate_line_characters(self) -> float:
        return self._duplicates_of_lines[1]

    def duplicate_paragraphs(self) -> float:
        return self._duplicates_of_paragraphs[0]

    def duplicate_paragraph_characters(self) -> float:
        return self._duplicates_of_paragraphs[1]

    def top_ngram(self, n: int) -> float:
        return self._repetition.top(n)

    def duplicate_ngrams(self, n: int) -> float:
        return self._repetition.duplicates(n)

    def lorem_ipsum(self) -> bool:
        return "lorem ipsum" in self._text.lower()

    def curly_brace(self) -> bool:
        return "{" in self._text

    @functools.cached_property
    def _words(self) -> Words:
        return words_of_text(self._text)

    @functools.cached_property
    def _repetition(self) -> Repetition:
        return Repetition(self._words)

    @functools.cached_property
    def _lines(self) -> list[str]:
        return [line for line in map(str.strip, self._text.split("\n")) if line]

    @functools.cached_property
    def _duplicates_of_lines(self) -> tuple[float, float]:
        return _duplicates(self._lines)

    @functools.cached_property
    def _duplicates_of_paragraphs(self) -> tuple[float, float]:
        return _duplicates([part for part in map(str.strip, re.split(r"\n\s*\n", self._text)) if part])

    def _share_of_lines(self, fitting: Iterable[bool]) -> float:
        return sum(fitting) / max(len(self._lines), 1)

    def _script_has_stop_words(self) -> bool:
        letters = self._words.codes[self._words.kinds >= LETTER]
        known = sum(int(((letters >= first) & (letters <= last)).sum()) for first, last in SCRIPTS_WITH_STOP_WORDS)
        return known > len(letters) / 2


@functools.cache
def _hashes_of_stop_words() -> NDArray[np.uint64]:
    return np.sort(words_of_text(" ".join(STOP_WORDS)).hashes)


BULLETS = frozenset("•‣◦⁃∙▪▫▸►●○■□◆◇★☆·*–—-")
SENTENCE_ENDS = frozenset(".!?\"'…”’»。！？．」』｡‼⁇⁈⁉؟۔।॥։።။។།༎")
CLOSING = frozenset(")]）】〕")

JAVASCRIPT = ("javascript",)
POLICIES = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    *(
        "隐私政策",
        "隱私權政策",
        "隱私政策",
        "使用条款",
        "使用條款",
        "cookie政策",
        "cookie 政策",
        "使用cookie",
        "使用 cookie",
    ),
)
"""C4's phrases, and what Chinese pages say in their place."""

_Breaks = Callable[[Measures], bool]

_THRESHOLDS: tuple[tuple[str, str, Callable[[Measures], float | None]], ...] = (
    ("too_few_words", "minimum_words", Measures.words),
    ("too_many_words", "maximum_words", Measures.words),
    ("short_words", "minimum_word_length", Measures.word_length),
    ("long_words", "maximum_word_length", Measures.word_length),
    ("hashes", "maximum_hashes", Measures.hashes),
    ("ellipses", "maximum_ellipses", Measures.ellipses),
    ("few_alphabetic_words", "minimum_alphabetic_words", Measures.alphabetic_words),
    ("few_stop_words", "minimum_stop_words", Measures.stop_words),
    ("bullet_lines", "maximum_bullet_lines", Measures.bullet_lines),
    ("ellipsis_lines", "maximum_ellipsis_lines", Measures.ellipsis_lines),
    ("unpunctuated_lines", "minimum_punctuated_lines", Measures.punctuated_lines),
    ("short_lines", "maximum_short_lines", Measures.short_lines),
    ("duplicate_lines", "maximum_duplicate_lines", Measures.duplicate_lines),
    ("duplicate_lines", "maximum_duplicate_line_characters", Measures.duplicate_line_characters),
    ("duplicate_paragraphs", "maximum_duplicate_paragraphs", Measures.duplicate_paragraphs),
    ("duplicate_paragraphs", "maximum_duplicate_paragraph_characters", Measures.duplicate_paragraph_characters),
)
"""Reason, threshold and measure, what costs least first."""


def _rules(config: QualityConfig) -> list[tuple[str, _Breaks]]:
    rules: list[tuple[str, _Breaks]] = []
    if config.lorem_ipsum:
        rules.append(("lorem_ipsum", Measures.lorem_ipsum))
    if config.curly_brace:
        rules.append(("curly_brace", Measures.curly_brace))
    for reason, key, measure in _THRESHOLDS:
        threshold = getattr(config, key)
        if threshold is not None:
            rules.append((reason, (_below if key.startswith("minimum") else _above)(measure, threshold)))
    for n, limit in enumerate(config.maximum_top_ngrams or (), 2):
        rules.append(("top_ngram", _above(functools.partial(Measures.top_ngram, n=n), limit)))
    for n, limit in enumerate(config.maximum_duplicate_ngrams or (), 5):
        rules.append(("duplicate_ngrams", _above(functools.partial(Measures.duplicate_ngrams, n=n), limit)))
    return rules


def _below(measure: Callable[[Measures], float | None], threshold: float) -> _Breaks:
    return lambda measures: (value := measure(measures)) is not None and value < threshold


def _above(measure: Callable[[Measures], float | None], threshold: float) -> _Breaks:
    return lambda measures: (value := measure(measures)) is not None and value > threshold


def _duplicates(parts: list[str]) -> tuple[float, float]:
    """Return the share of parts that have occurred before, and of characters in them."""
    characters = sum(map(len, parts))
    if not characters:
        return 0.0, 0.0
    different = set(parts)
    return 1 - len(different) / len(parts), 1 - sum(map(len, different)) / characters


def _without_lines(text: str, unwanted: Mapping[str, Sequence[str]]) -> tuple[str, Counter[str]]:
    """Return the text without the lines that hold an unwanted phrase, and how many of each kind there were."""
    changes: Counter[str] = Counter()
    for kind, phrases in unwanted.items():
        lower = text.lower()
        if not any(phrase in lower for phrase in phrases):
            continue
        lines = text.split("\n")
        kept = [line for line in lines if not any(phrase in line.lower() for phrase in phrases)]
        changes[kind] = len(lines) - len(kept)
        text = "\n".join(kept)
    return text, changes
