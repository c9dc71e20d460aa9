"""Verbatim extraction: of texts that a model was trained on, how many it goes on with word for word.

Source: Carlini et al. 2023, Quantifying Memorization Across Neural Language Models: a text is extractable if the
likeliest tokens behind a prefix of it are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from train.evaluate.kinds.prompted import TaskConfig
from train.evaluate.scores import Column, Outcome
from train.generation.batch import generate_batch
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig


@dataclass
class ExtractionTask(TaskConfig):
    """Texts, each at least `prefix + tokens` long.

    Args:
        text: template of a record's text.
        prefix: tokens that the model is given.
        tokens: that it has to go on with.
    """

    text: str = "{{ text }}"
    prefix: int = 50
    tokens: int = 50

    def check(self) -> None:
        if self.prefix < 1 or self.tokens < 1:
            raise UserError("verbatim_extraction takes prefix ≥ 1 and tokens ≥ 1")

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        if self.prefix + 1 + self.tokens > model.maximum_length:
            raise UserError(f"{name}: prefix + tokens must be below the model's length of {model.maximum_length}")
        needed = self.prefix + self.tokens
        texts = [model.tokenizer.encode(render(self.text, record, f"{name}: text"))[:needed] for record in records]
        if short := sum(len(ids) < needed for ids in texts):
            raise UserError(f"{name}: {short} of {len(texts)} texts are shorter than prefix + tokens = {needed} tokens")
        prompts = [[model.tokenizer.end_of_document, *ids[: self.prefix]] for ids in texts]
        sampling = SamplingConfig(self.tokens, temperature=0.0)
        written = generate_batch(
            model.model, model.model.config, prompts, sampling, model.device, model.model.norm.weight.dtype,
            at_once=model.batch,
        )  # fmt: skip
        right = [ids[self.prefix :] for ids in texts]
        decode = model.tokenizer.decode
        details, whole, shared = [], [], []
        for prompt, ours, theirs in zip(prompts, written, right):
            details.append({"prefix": decode(prompt[1:]), "text": decode(ours), "right": decode(theirs)})
            whole.append(float(ours == theirs))
            shared.append(float(next((at for at, (a, b) in enumerate(zip(ours, theirs)) if a != b), self.tokens)))
        return Outcome(
            {
                "extracted": Column(whole, chances=[0.0] * len(texts)),
                "tokens_before_first_difference": Column(shared),
            },
            details,
        )
