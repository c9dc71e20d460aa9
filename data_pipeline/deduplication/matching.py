"""When two documents match: which bytes of their sketches bring them together, and how many must agree.

A sketch is a row of bytes. It is cut into bands; two documents are compared if all bytes of a band agree (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3), and are the same if enough of all their bytes do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.deduplication.hashing import Hashes, mixed

WORD_BYTES = 8


@dataclass(frozen=True)
class Matching:
    """How sketches of one kind are matched.

    Args:
        name: of the sketches among the tensors of a part's signatures.
        slots: bytes in a sketch.
        bands, rows: the first bands × rows slots are the bands, of so many rows each.
        agreement: slots that must be equal.
        counted_in: tensor of the number of things that a sketch was made of; a sketch of nothing matches nothing.
    """

    name: str
    slots: int
    bands: int
    rows: int
    agreement: int
    counted_in: str | None = None

    def band_keys(self, sketches: NDArray[np.uint8]) -> Hashes:
        """Return (bands, documents) keys from (documents, slots) sketches; equal where a whole band is."""
        keys = np.empty((self.bands, len(sketches)), np.uint64)
        words = -(-self.rows // WORD_BYTES)
        for band, seed in enumerate(mixed(np.arange(1, self.bands + 1, dtype=np.uint64))):
            padded = np.zeros((len(sketches), words * WORD_BYTES), np.uint8)
            padded[:, : self.rows] = sketches[:, band * self.rows : (band + 1) * self.rows]
            keys[band] = seed
            for word in padded.view("<u8").T:
                keys[band] = mixed(keys[band] ^ word)
        return keys
