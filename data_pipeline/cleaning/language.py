"""Which language a document is in, by py3langid; and leaving out those in others than are wanted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from data_pipeline.cleaning.byte_ngrams import byte_ngrams
from data_pipeline.cleaning.stage import Dropped, Kept, Stage
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

PIECES = 8
"""A document is looked at in so many places, so that its licence or its menu doesn't decide."""

MEMBERS = {"yue": "zh", "wuu": "zh"}
"""Languages that count as the one whose writing they share: ISO 639-3 has them in the macrolanguage Chinese, and the
classifier takes classical Chinese for them."""


@dataclass
class LanguageConfig:
    """Settings of language identification.

    Args:
        enabled: identify the language of every document.
        keep: ISO 639 codes of the languages that are kept; all if empty.
        minimum_confidence: probability of the language, from 0 to 1, below which a document is dropped.
        characters: of a document that are looked at, white space collapsed.
    """

    enabled: bool = False
    keep: list[str] = field(default_factory=list)
    minimum_confidence: float = 0.0
    characters: int = 2_000


class Language(Stage):
    """Sets a document's language. Drops it as `other_language`, or as `uncertain_language` below the confidence.

    The classifier is py3langid's naive Bayes over byte n-grams (Lui and Baldwin 2012, langid.py, retrained): of the
    libraries that carry their model with them, the one that was right most often on manuals in English and Chinese.
    """

    def __init__(self, config: LanguageConfig):
        self._config = config

    def apply_all(self, documents: Sequence[Document]) -> list[Kept | Dropped]:
        samples = [_sample(document.text, self._config.characters) for document in documents]
        return [self._judged(document, *found) for document, found in zip(documents, identify(samples))]

    def _judged(self, document: Document, language: str, confidence: float) -> Kept | Dropped:
        if confidence < self._config.minimum_confidence:
            return Dropped("uncertain_language")
        if self._config.keep and language not in self._config.keep:
            return Dropped("other_language")
        return Kept(replace(document, language=language))


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Return the ISO 639 code of the language that each text is most probably in, and the probability."""
    languages, columns = _together()
    found = []
    for probabilities in byte_ngrams().probabilities(texts):
        together = np.bincount(columns, probabilities)
        best = int(together.argmax())
        found.append((languages[best], float(together[best])))
    return found


@functools.cache
def _together() -> tuple[list[str], list[int]]:
    """Return the languages that can be identified, and for each of the classifier's which of them it counts as."""
    counted = [MEMBERS.get(language, language) for language in byte_ngrams().languages]
    languages = list(dict.fromkeys(counted))
    return languages, [languages.index(language) for language in counted]


def check_language(config: LanguageConfig) -> None:
    """Refuse settings that can't be meant. Raises UserError."""
    if not 0 <= config.minimum_confidence <= 1:
        raise UserError(f"cleaning.language.minimum_confidence={config.minimum_confidence} must lie between 0 and 1")
    if config.characters < 1:
        raise UserError(f"cleaning.language.characters={config.characters} must be at least 1")
    if config.enabled and (unknown := set(config.keep) - known_languages()):
        raise UserError(
            f"cleaning.language.keep: {sorted(unknown)[0]} is no language that can be identified; "
            f"known are {' '.join(sorted(known_languages()))}"
        )


def known_languages() -> set[str]:
    """Return the codes of all languages that can be identified."""
    return set(_together()[0])


def _sample(text: str, characters: int) -> str:
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    piece = -(-characters // PIECES)
    return " ".join(text[number * (len(text) - piece) // (PIECES - 1) :][:piece] for number in range(PIECES))
