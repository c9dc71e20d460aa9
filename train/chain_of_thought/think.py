"""Asks a model by a strategy: its steps, its answer, and how many of its samples agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.chain_of_thought.answers import ExtractConfig, extract
from train.chain_of_thought.strategy import StrategyConfig
from train.generation.records import read_records
from train.generation.templates import render
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig


@dataclass(frozen=True)
class Thought:
    """What a model made of a question.

    Args:
        text: what it wrote, of the first sample with the chosen answer.
        answer: the most frequent one, the earlier of equals; None where no sample has one.
        votes: how many samples gave each answer, in the order in which they came.
    """

    text: str
    answer: str | None
    votes: dict[str, int]


def think(
    model: TextModel,
    prompts: Sequence[str],
    questions: Sequence[str],
    strategy: StrategyConfig,
    answers: ExtractConfig,
    sampling: SamplingConfig,
    seeds: Sequence[int] | None = None,
) -> list[Thought]:
    """Return what a model makes of each question.

    Args:
        prompts: as the model is asked, with examples before the question if there are any.
        questions: alone, for strategies that divide them into parts.
        sampling: how it writes; with several samples at the strategy's temperature instead.
        seeds: of sample j of question i at i · samples + j; None counts up from `sampling.seed`.
    """
    count = strategy.samples
    if count > 1:
        sampling = replace(sampling, temperature=strategy.temperature)
    seeds = range(sampling.seed, sampling.seed + len(prompts) * count) if seeds is None else seeds
    asked = [prompt for prompt in prompts for _ in range(count)]
    if strategy.decompose:
        repeated = [question for question in questions for _ in range(count)]
        solved = _least_to_most(model, repeated, strategy, sampling, seeds)
        texts = ["\n".join(f"{part} {answer}" for part, answer in pairs) for pairs in solved]
        final = [pairs[-1][1] for pairs in solved]
    else:
        asked = [prompt + strategy.trigger for prompt in asked]
        texts = final = model.write(asked, sampling, seeds)
    if strategy.answer_trigger:
        again = [before + text + strategy.answer_trigger for before, text in zip(asked, texts)]
        final = model.write_greedily(again, strategy.answer_tokens, sampling.stop)
        texts = [text + strategy.answer_trigger + answer for text, answer in zip(texts, final)]
    found = [extract(text, answers) for text in final]
    return [vote(texts[first : first + count], found[first : first + count]) for first in range(0, len(found), count)]


def examples_before(strategy: StrategyConfig) -> str:
    """Return a strategy's own worked examples as they stand before a prompt (Wei et al. 2022).

    Raises:
        UserError: the file can't be read.
    """
    if strategy.examples is None:
        return ""
    before = ""
    for record in read_records(strategy.examples, Path(), [], strategy.shots):
        question = render(strategy.prompt, record, "strategy.prompt")
        before += question + render(" {{ answer }}\n\n", record, "strategy.examples")
    return before


def vote(texts: Sequence[str], answers: Sequence[str | None]) -> Thought:
    """Return the most frequent answer of a question's samples (Wang et al. 2022)."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return Thought(texts[0], None, {})
    [(chosen, _)] = votes.most_common(1)
    return Thought(texts[answers.index(chosen)], chosen, dict(votes))


def _least_to_most(
    model: TextModel,
    questions: Sequence[str],
    strategy: StrategyConfig,
    sampling: SamplingConfig,
    seeds: Sequence[int],
) -> list[list[tuple[str, str]]]:
    """Return each question's parts with their answers, the question itself last (Zhou et al. 2022)."""
    asked = [render(strategy.decompose, {"question": question}, "strategy.decompose") for question in questions]
    divided = [
        [*parts_of(text, strategy.parts), question]
        for text, question in zip(model.write(asked, sampling, seeds), questions)
    ]
    solved: list[list[tuple[str, str]]] = [[] for _ in questions]
    for turn in range(max(map(len, divided), default=0)):
        at = [index for index, parts in enumerate(divided) if turn < len(parts)]
        prompts = []
        for index in at:
            fields: dict[str, Any] = {"question": questions[index], "part": divided[index][turn]}
            prompts.append(render(strategy.solve, fields | {"solved": solved[index]}, "strategy.solve"))
        for index, answer in zip(at, model.write(prompts, sampling, [seeds[index] for index in at])):
            solved[index].append((divided[index][turn], answer.strip()))
    return solved


def parts_of(text: str, most: int) -> list[str]:
    """Return the parts that a model divided a question into: its lines, without numbers and bullets before them."""
    lines = (re.sub(r"^\s*(?:\d+[.):]|[-*•])?\s*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line][:most]
