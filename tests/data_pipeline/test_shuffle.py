"""A run sees the corpus in as random an order as if all of it had been shuffled in memory."""

from __future__ import annotations

import re

import numpy as np
import pytest
from generated_corpus import generated_texts, prepare_texts

from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.inspect import _excerpts
from data_pipeline.tokenization.tokenizer import load_tokenizer

DOCUMENTS = 3000


def rank_correlation(order: np.ndarray) -> float:
    """Spearman's ρ between the places of documents in the corpus and in the delivery."""
    return float(np.corrcoef(order.argsort().argsort(), np.arange(len(order)))[0, 1])


def distance_of_neighbours(order: np.ndarray) -> float:
    """Mean distance in the corpus of documents that are delivered one after the other, as a share of the corpus.

    Of a full shuffle: 1/3.
    """
    return float(np.abs(np.diff(order)).mean() / len(order))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory) -> np.ndarray:
    """The numbers of the corpus's documents in the order in which a run first meets them."""
    folder, _ = prepare_texts(
        tmp_path_factory.mktemp("shuffle"), generated_texts(DOCUMENTS), "block_tokens=2000", "shard_tokens=20000"
    )
    dataset = open_dataset(DataConfig(str(folder), 64, window=512))
    sequences = open_training(dataset, 0, plan_segments(64, 8), 10)
    tokenizer = load_tokenizer(folder / "tokenizer")
    met: dict[int, None] = {}
    for number in range(sequences.per_epoch):
        _, pieces = sequences.pieces(np.array([number]))
        for excerpt in _excerpts(sequences.store, pieces, tokenizer, 12):
            if excerpt.first == 0 and (found := re.match(r"Text (\d+):", excerpt.text)):
                met.setdefault(int(found[1]))
    return np.array(list(met))


def test_where_a_document_lies_in_the_corpus_says_nothing_about_when_it_is_read(delivered):
    count = len(delivered)
    assert count > 0.8 * DOCUMENTS
    # The deviation of a full shuffle's rank correlation is 1/√(n - 1).
    assert abs(rank_correlation(delivered)) < 3 / np.sqrt(count - 1)


def test_neighbours_in_the_corpus_are_no_neighbours_in_a_batch(delivered):
    shuffled = np.random.default_rng(0).permutation(delivered)
    assert distance_of_neighbours(delivered) == pytest.approx(distance_of_neighbours(shuffled), abs=0.02)
    assert distance_of_neighbours(np.sort(delivered)) < 0.01, "the measure can fail"
