"""Perplexity and bits per byte of texts, each from its beginning; with `by`, of each domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from train.evaluate.kinds.prompted import TaskConfig
from train.evaluate.perplexity import windows
from train.evaluate.scores import Column, Outcome
from train.generation.likelihood import Likelihood
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel


@dataclass
class TextTask(TaskConfig):
    """Texts to predict.

    Args:
        text: template of a record's text.
    """

    text: str = "{{ text }}"

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        texts = [render(self.text, record, f"{name}: text") for record in records]
        scored = rolling_likelihoods(model, texts)
        nats, tokens = [-each.nats for each in scored], [float(each.tokens) for each in scored]
        sizes = [float(len(text.encode())) for text in texts]
        uniform = math.log(model.model.config.vocabulary_size or 1)
        guessed = [count * uniform for count in tokens]
        bits = math.log(2)
        return Outcome(
            {
                "bits_per_byte": Column([n / bits for n in nats], sizes, [n / bits for n in guessed]),
                "perplexity": Column(nats, tokens, guessed, math.exp, math.exp),
            },
            [{"text": text, "nats": n, "tokens": int(t)} for text, n, t in zip(texts, nats, tokens)],
        )


def rolling_likelihoods(model: TextModel, texts: list[str]) -> list[Likelihood]:
    """Return the likelihood of whole texts behind an end of document, in windows of the model's length."""
    pairs, owners = [], []
    for owner, text in enumerate(texts):
        ids = [model.tokenizer.end_of_document, *model.tokenizer.encode(text)]
        for start, first, stop in windows(len(ids), model.maximum_length, 0):
            pairs.append((ids[start:first], ids[first:stop]))
            owners.append(owner)
    totals = [Likelihood(0.0, 0, True)] * len(texts)
    for owner, scored in zip(owners, model.likelihoods_of_ids(pairs)):
        nats, tokens, greedy = totals[owner]
        totals[owner] = Likelihood(nats + scored.nats, tokens + scored.tokens, greedy and scored.greedy)
    return totals
