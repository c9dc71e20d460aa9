"""The text that a model is scored on: a split of a dataset or any file, as tokens and as bytes."""

from __future__ import annotations

import gzip
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset import Dataset
from data_pipeline.foundation.errors import UserError
from data_pipeline.store import Store
from data_pipeline.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """Text to score.

    Args:
        name: for the table.
        tokens: behind an end-of-document token, which is context for the first.
        content: the same text as UTF-8 bytes, for compressors to try.
    """

    name: str
    tokens: NDArray[np.int64]
    content: bytes

    def compressed_bits_per_byte(self) -> dict[str, float]:
        """Return what general compressors at their best settings need, in bits per byte of the text."""
        sizes = {"gzip_9": len(gzip.compress(self.content, 9)), "xz_9": len(lzma.compress(self.content, preset=9))}
        return {name: 8.0 * size / max(1, len(self.content)) for name, size in sizes.items()}


def split_text(dataset: Dataset, split: str, tokenizer: Tokenizer) -> Text:
    """Read a whole split of a dataset, documents in storage order, each with its end.

    Raises:
        UserError: no such split, or the dataset was made with another tokenizer than the model's.
        Failure: the dataset is damaged.
    """
    name = dataset.files.name
    if dataset.manifest.tokenizer_fingerprint != tokenizer.fingerprint:
        raise UserError(f"{name} was made with another tokenizer than the model's: its tokens mean something else")
    store = Store(dataset.files, dataset.manifest, split)
    # Copied, for as long as its documents are held a shard takes up room in the cache.
    documents = [document.copy() for document in store.documents()]
    tokens = np.concatenate([[tokenizer.end_of_document], *documents]).astype(np.int64)
    content = "".join(tokenizer.decode(document[:-1].tolist()) for document in documents).encode()
    return Text(f"{name} {split}", tokens, content)


def file_text(path: Path, tokenizer: Tokenizer) -> Text:
    """Read a text file as one document.

    Raises:
        UserError: no such file, not UTF-8, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"text={path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"text={path} is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text:
        raise UserError(f"text={path} is empty")
    tokens = np.array([tokenizer.end_of_document, *tokenizer.encode(text)], dtype=np.int64)
    return Text(str(path), tokens, text.encode())
