"""Translations that the model writes, by BLEU and chrF of sacrebleu, beside those of the source as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.evaluate.kinds.prompted import PromptedTask
from train.evaluate.scores import Outcome, Score
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig

RESAMPLINGS = 1000


@dataclass
class TranslationTask(PromptedTask):
    """Sentences to translate.

    Args:
        source: template of the sentence, for the baseline that copies it.
        answer: template of the reference.
        tokens: most to write, greedily.
        stop: texts that end a translation.
        tokenize: how sacrebleu divides words for BLEU: `13a`, `zh`, `char`, `intl` …
    """

    source: str = "{{ source }}"
    answer: str = "{{ target }}"
    tokens: int = 128
    stop: list[str] = field(default_factory=lambda: ["\n"])
    tokenize: str = "13a"

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        prompts = self.prompts(records, folder, name)
        references = [render(self.answer, record, f"{name}: answer") for record in records]
        sources = [render(self.source, record, f"{name}: source") for record in records]
        sampling = SamplingConfig(self.tokens, temperature=0.0, stop=self.stop)
        written = [text.strip() for text in model.write(prompts, sampling)]
        details = [
            {"prompt": prompt, "right": reference, "text": text}
            for prompt, reference, text in zip(prompts, references, written)
        ]
        return Outcome({}, details, scores=corpus_scores(written, references, sources, self.tokenize))


def corpus_scores(written: list[str], references: list[str], sources: list[str], tokenize: str) -> list[Score]:
    """Return BLEU (Papineni et al. 2002) and chrF (Popović 2015) with sacrebleu's signatures (Post 2018).

    The standard error is half of sacrebleu's 95 % bootstrap interval / 1.96 (Koehn 2004).
    """
    from sacrebleu.metrics import BLEU, CHRF

    scores = []
    metrics: dict[str, Any] = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
    for name, metric in metrics.items():
        copied = metric.corpus_score(sources, [references]).score
        if len(written) > 1:
            scored = metric.corpus_score(written, [references], n_bootstrap=RESAMPLINGS)
            error = float(scored._ci) / 1.96
        else:
            scored, error = metric.corpus_score(written, [references]), None
        more = {"signature": str(metric.get_signature()), "copy": copied}
        scores.append(Score(name, float(scored.score), len(written), error, more=more))
    return scores
