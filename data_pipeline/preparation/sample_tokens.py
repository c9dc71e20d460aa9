"""Samples to tokens, each with a label: what is learnt from, and which of two answers it belongs to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.labels import LEARNT, MARKUP, REJECTED
from data_pipeline.readers.document import Document
from data_pipeline.tokenization.tokenizer import Tokenizer


def encode_sample(document: Document, tokenizer: Tokenizer) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return a sample's tokens and their labels; of two answers, each has the prompt before it and is ended.

    Prompt and answer are encoded apart, as they are when a model is asked: a token that spans their border would never
    occur then.
    """
    ids: list[int] = []
    labels: list[int] = []
    for _, half in itertools.groupby(_pieces(document), lambda piece: piece[1] & REJECTED):
        first, label = len(ids), 0
        for text, label in _joined(list(half)):
            encoded = tokenizer.encode_markup(text) if label & MARKUP else tokenizer.encode(text)
            ids += encoded
            labels += [label & ~MARKUP] * len(encoded)
        ids.append(tokenizer.end_of_document)
        labels.append(label & ~MARKUP)
        labels[first] &= ~LEARNT  # nothing stands before it to foretell it from
    return np.array(ids, np.uint32), np.array(labels, np.uint8)


def _pieces(document: Document) -> list[tuple[str, int]]:
    at, pieces = 0, []
    for length, label in document.spans:
        pieces.append((document.text[at : at + length], label))
        at += length
    return pieces


def _joined(pieces: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the pieces with neighbours of the same label as one."""
    return [
        ("".join(text for text, _ in group), label) for label, group in itertools.groupby(pieces, lambda each: each[1])
    ]
