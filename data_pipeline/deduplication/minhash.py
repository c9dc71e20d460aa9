"""Near duplicates: texts most of whose shingles are the same, found by MinHash signatures of one byte a slot.

A slot of a MinHash signature agrees between two documents with the probability that is the Jaccard similarity of their
sets of shingles (Broder 1997, "On the resemblance and containment of documents"). Only the lowest byte of every slot is
kept, and the 1 in 256 that agree by chance are allowed for: for the same bytes on disk, more slots of one byte estimate
better than fewer whole ones (Li, König 2010, "b-Bit minwise hashing").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.matching import Matching
from data_pipeline.deduplication.shingles import shingle
from data_pipeline.foundation.errors import UserError

SEED = 1
BATCH_CHARACTERS = 1 << 18
RECALL_AT_THRESHOLD = 0.9
MOST_PERMUTATIONS = 4096
CHANCE = 1 / 256
"""With which two different slots have the same lowest byte."""


@dataclass
class NearDuplicatesConfig:
    """Settings for near duplicates.

    Args:
        enabled: drop documents that are nearly the same as an earlier one, or as one that is nearly the same as that,
            and so on.
        threshold: Jaccard similarity of their sets of shingles from which two documents are nearly the same, estimated
            with a standard error of sqrt(similarity × (1 - similarity) / permutations).
        permutations: slots of a signature; as many bytes a document.
        bands, rows: a pair of documents is compared if one of so many bands of so many slots agrees, which happens with
            probability 1 - (1 - similarity**rows)**bands. Derived from the threshold if None.
        ngram: tokens in a shingle: words, or characters of scripts without spaces.
    """

    enabled: bool = True
    threshold: float = 0.8
    permutations: int = 256
    bands: int | None = None
    rows: int | None = None
    ngram: int = 5

    def check(self) -> None:
        """Refuse settings that find nothing or can't be met. Raises UserError."""
        if not 0 < self.threshold <= 1:
            raise UserError(f"cleaning.duplicates.near.threshold={self.threshold} must lie above 0 and be at most 1")
        if not 1 <= self.permutations <= MOST_PERMUTATIONS:
            raise UserError(
                f"cleaning.duplicates.near.permutations={self.permutations} must be from 1 to {MOST_PERMUTATIONS}"
            )
        if self.ngram < 1:
            raise UserError(f"cleaning.duplicates.near.ngram={self.ngram} must be at least 1")
        if (self.bands is None) != (self.rows is None):
            raise UserError(
                "cleaning.duplicates.near.bands and rows go together: give both, or none to have them derived"
            )
        if self.bands is not None and self.rows is not None:
            if self.bands < 1 or self.rows < 1:
                raise UserError(f"cleaning.duplicates.near.bands={self.bands} and rows={self.rows} must be at least 1")
            if self.bands * self.rows > self.permutations:
                raise UserError(
                    f"cleaning.duplicates.near.bands={self.bands} × rows={self.rows} are more than "
                    f"permutations={self.permutations}: give fewer, or more permutations"
                )
        self.matching()

    def matching(self) -> Matching:
        """Raises UserError: so few permutations can't find pairs at the threshold."""
        if self.bands is None or self.rows is None:
            bands, rows = _derived_bands(self.threshold, self.permutations)
        else:
            bands, rows = self.bands, self.rows
        least = math.ceil(self.permutations * (CHANCE + (1 - CHANCE) * self.threshold) - 1e-9)
        return Matching("signatures", self.permutations, bands, rows, agreement=least, counted_in="shingles")


def sign(texts: Sequence[str], config: NearDuplicatesConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return (texts, permutations) signatures, and (texts,) numbers of shingles; a text without any has no signature.

    The MinHash is rensa's R-MinHash, over all shingles: a variant of Fast Similarity Sketching (Dahlgaard, Knudsen,
    Thorup 2017). Its cost hardly grows with the number of slots, and its error is at most that of plain MinHash.
    """
    from rensa import RMinHash

    signatures = np.zeros((len(texts), config.permutations), np.uint8)
    counts = np.zeros(len(texts), np.uint32)
    for part in _batches(texts):
        found = shingle(texts[part], config.ngram)
        rows = RMinHash.digest_matrix_from_flat_token_hashes(
            found.hashes, found.offsets, num_perm=config.permutations, seed=SEED
        ).to_rows()
        slots = np.fromiter(chain.from_iterable(rows), np.uint32, len(rows) * config.permutations)
        signatures[part] = slots.astype(np.uint8).reshape(len(rows), -1)
        counts[part] = np.diff(found.offsets)
    return signatures, counts


def signature_version() -> str:
    """Return what has to be the same for two signatures to be comparable, beside the settings."""
    from rensa import RMinHash

    return f"R-MinHash {RMinHash.ALGORITHM_VERSION}, seed {SEED}"


def _batches(texts: Sequence[str]) -> Iterator[slice]:
    start, size = 0, 0
    for number, text in enumerate(texts):
        if size and size + len(text) > BATCH_CHARACTERS:
            yield slice(start, number)
            start, size = number, 0
        size += len(text)
    if start < len(texts):
        yield slice(start, len(texts))


def _derived_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows): the longest bands by which pairs at the threshold are still found.

    They take half of the slots, so that the other half judges a pair without having brought it together.
    """
    half = max(permutations // 2, 1)
    for rows in range(half, 0, -1):
        bands = half // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL_AT_THRESHOLD:
            return bands, rows
    raise UserError(
        f"cleaning.duplicates.near.permutations={permutations} are too few to find pairs of a similarity of "
        f"threshold={threshold}: give more"
    )
