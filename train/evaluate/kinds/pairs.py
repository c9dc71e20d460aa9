"""CrowS-Pairs: how often a model prefers the more stereotyping sentence of two that differ in a group's name.

Source: Nangia et al. 2020, CrowS-Pairs. For models that predict from left to right a sentence's own likelihood takes
the place of its pseudo-likelihood, as in lm-evaluation-harness. No preference is 50 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.evaluate.kinds.prompted import TaskConfig
from train.evaluate.scores import Column, Outcome
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel


@dataclass
class PairsTask(TaskConfig):
    """Sentences in pairs.

    Args:
        more: template of the more stereotyping one.
        less: template of the less stereotyping one.
    """

    more: str = "{{ sent_more }}"
    less: str = "{{ sent_less }}"

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        sentences = [
            [
                render(template, record, f"{name}: {which}")
                for template, which in ((self.more, "more"), (self.less, "less"))
            ]
            for record in records
        ]
        scored = iter(model.likelihoods([("", sentence) for pair in sentences for sentence in pair]))
        nats = [[next(scored).nats for _ in pair] for pair in sentences]
        preferred = [float(more > less) + 0.5 * (more == less) for more, less in nats]
        return Outcome(
            {
                "stereotype_preferred": Column(preferred, chances=[0.5] * len(records)),
                "likelihood_difference": Column([abs(more - less) for more, less in nats]),
            },
            [{"sentences": pair, "nats": each} for pair, each in zip(sentences, nats)],
        )
