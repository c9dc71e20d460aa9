"""Text to tokens, by the fast encoder only while it proves equal.

`tokenizers` is the reference. `fastokens` is some fifteen times faster, and is used after it gave the same ids on a
sample of the corpus at hand. While it encodes, a piece of some documents is encoded by both; at the first difference
`EncodersDifferError` is raised, and everything has to be encoded again by the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.tokenization.tokenizer import Tokenizer

SPOT_CHECK_ONE_IN = 32
SPOT_CHECK_CHARACTERS = 1024


class EncodersDifferError(Exception):
    """The fast encoder gave other ids than the reference."""


class FastEncoder:
    """`fastokens` behind a tokenizer: the same ids, or an EncodersDifferError."""

    def __init__(self, tokenizer: Tokenizer):
        import fastokens

        self._tokenizer = tokenizer
        self._fast = fastokens.Tokenizer.from_json_str(tokenizer.backend.to_str())

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return each text's ids; a piece of one text in thirty-two is compared."""
        for text in texts:
            middle = len(text) // 2  # what texts begin with, such as a licence, many may share
            chosen = xxhash.xxh3_64_intdigest(text[middle : middle + SPOT_CHECK_CHARACTERS].encode(), seed=1)
            if chosen % SPOT_CHECK_ONE_IN == 0:
                start = chosen % max(1, len(text) - SPOT_CHECK_CHARACTERS + 1)
                self.compare(text[start : start + SPOT_CHECK_CHARACTERS])
        return self._encode(texts)

    def compare(self, text: str) -> None:
        """Raises EncodersDifferError if the two don't give the same ids for a text."""
        if self._encode([text])[0].tolist() != self._tokenizer.encode(text):
            raise EncodersDifferError(f"fastokens gives other ids for {text[:60]!r}")

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        try:
            ids, offsets = self._fast.encode_batch_flat(list(texts), False, split_special_tokens=True)
        except Exception as error:  # such as its regular expressions' limit on backtracking
            raise EncodersDifferError(f"fastokens can't encode a text: {error}") from None
        return np.split(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")[1:-1].astype(np.int64))


def why_not_fast(tokenizer: Tokenizer, texts: Iterable[str]) -> str | None:
    """Return why the fast encoder can't be used for this tokenizer on these texts, or None where it proved equal."""
    try:
        encoder = FastEncoder(tokenizer)
        for text in texts:
            encoder.compare(text)
    except ImportError:
        return "fastokens is not installed"
    except EncodersDifferError as difference:
        return str(difference)
    except Exception as error:  # the library raises several kinds for tokenizers that it doesn't support
        return f"fastokens can't be used for this tokenizer: {error}"
    return None


def split_of(content: bytes, validation_fraction: float) -> str:
    """Return a document's split: a function of its text in UTF-8, so it never moves, whatever else is in the corpus."""
    return "validation" if xxhash.xxh3_64_intdigest(content) < validation_fraction * 2**64 else "train"
