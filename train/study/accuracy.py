"""How many held-out problems a checkpoint solves, by one answer each or by a vote over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.chain_of_thought.think import vote
from train.generation.batch import generate_batch
from train.sampling import SamplingConfig
from train.source import load_source
from train.study.problems import ENDS_STEPS, Problem

RESAMPLES = 2000
LONGEST = 144
"""Tokens of an answer with its steps."""
VOTE_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Accuracy:
    """Share of problems solved.

    Args:
        low, high: 95 % of what it would be with other problems of the kind (bootstrap; Efron 1979).
        problems: asked.
    """

    share: float
    low: float
    high: float
    problems: int


def accuracy_of(solved: Sequence[bool], seed: int = 0) -> Accuracy:
    """Return the share of problems that were solved, with its interval."""
    found = np.asarray(solved, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile(found[draws].mean(axis=1), (0.025, 0.975))
    return Accuracy(float(found.mean()), float(low), float(high), len(found))


def solve(source: Path, problems: Sequence[Problem], votes: int = 0) -> list[bool]:
    """Return which problems a run or checkpoint solves: by its likeliest answer, or by so many that vote."""
    loaded = load_source(source)
    prompts = [loaded.tokenizer.encode(problem.question) for problem in problems for _ in range(max(1, votes))]
    sampling = SamplingConfig(tokens=LONGEST, temperature=VOTE_TEMPERATURE if votes else 0.0)
    written = generate_batch(
        loaded.model,
        loaded.model.config,
        prompts,
        sampling,
        loaded.device,
        torch.float32,
        stop_tokens=[loaded.tokenizer.end_of_document],
        at_once=500,
    )
    answers = [loaded.tokenizer.decode(ids).rpartition(ENDS_STEPS)[2] for ids in written]
    each = max(1, votes)
    groups = [answers[first : first + each] for first in range(0, len(answers), each)]
    return [vote(group, group).answer == problem.answer for group, problem in zip(groups, problems)]
