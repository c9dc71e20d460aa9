"""Answers that the model writes, with or without steps before them, compared with the right ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from train.chain_of_thought.answers import ExtractConfig, check_extract, comparable
from train.chain_of_thought.strategy import load_strategy
from train.chain_of_thought.think import think
from train.evaluate.kinds.prompted import PromptedTask
from train.evaluate.scores import Column, Outcome
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig, check_sampling


@dataclass
class GenerationTask(PromptedTask):
    """Answers to write.

    Args:
        question: template of the question alone, for strategies that divide it into parts.
        tokens: most to write.
        temperature: 0 always takes the likeliest token.
        top_p: as in `headrace generate`.
        seed: of the draws.
        stop: texts that end the writing.
        extract: where in it the answer is.
        strategy: how the model is asked: an option's name, or settings.
        chance: what guessing reaches, if you know it.
    """

    question: str = "{{ question }}"
    tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: list[str] = field(default_factory=list)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    strategy: Any = None
    chance: float | None = None

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(self.tokens, self.temperature, top_p=self.top_p, seed=self.seed, stop=self.stop)

    def check(self) -> None:
        if not isinstance(self.strategy, (str, dict, type(None))):
            raise UserError("strategy is an option's name, or settings")
        check_sampling(self.sampling)
        check_extract(self.extract)
        load_strategy(self.strategy)

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        strategy = load_strategy(self.strategy)
        prompts = self.prompts(records, folder, name)
        questions = prompts
        if strategy.decompose:
            questions = [render(self.question, record, f"{name}: question") for record in records]
        right = [comparable(render(self.answer, record, f"{name}: answer"), self.extract) for record in records]
        thoughts = think(model, prompts, questions, strategy, self.extract, self.sampling)
        [(_, most)] = Counter(right).most_common(1)
        columns = {
            "exact_match": Column(
                [float(thought.answer == answer) for thought, answer in zip(thoughts, right)],
                chances=None if self.chance is None else [self.chance] * len(records),
            ),
            "answered": Column([float(thought.answer is not None) for thought in thoughts]),
        }
        if strategy.samples > 1:
            columns["single_sample"] = Column(
                [thought.votes.get(answer, 0) / strategy.samples for thought, answer in zip(thoughts, right)]
            )
        details = [
            {"prompt": prompt, "right": answer, **asdict(thought)}
            for prompt, answer, thought in zip(prompts, right, thoughts)
        ]
        return Outcome(columns, details, more={"majority": most / len(right), "strategy": asdict(strategy)})
