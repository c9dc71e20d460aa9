"""From spans of tokens to rows that a model takes: concatenate and split, with the document ends kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order import Order
from data_pipeline.store import Store


@dataclass(frozen=True)
class Rows:
    """Sequences as they lie in the dataset.

    Args:
        numbers: of the sequences in the run's order.
        tokens: (rows, T + 1) of the dataset's dtype; inputs are all but the last, targets all but the first.
        document_ends: per row, the exclusive ends of documents within its T inputs, ascending, the last one T.
    """

    numbers: range
    tokens: NDArray
    document_ends: list[list[int]]


def read_rows(order: Order, store: Store, numbers: range) -> Rows:
    """Assemble sequences by number."""
    length = order.sequence_length
    tokens = np.empty((len(numbers), length + 1), dtype=store.dtype)
    document_ends = []
    for row, number in enumerate(numbers):
        ends = [end for end in store.read(order.spans(number), tokens[row]) if end < length]
        document_ends.append([*ends, length])
    return Rows(numbers, tokens, document_ends)
