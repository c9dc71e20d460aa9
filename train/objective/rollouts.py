"""What a policy learns from: its own answers to a step's problems, written, checked and held against each other.

What answer number j to a problem draws is a function of the run's seed, the number of the problem's sequence in the
run, which no two steps share, and j: a run that goes on writes what it would have written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import xxhash
from torch import Tensor

from data_pipeline.labels import EXPECTED
from data_pipeline.loader import IGNORED, Batch
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.chain_of_thought.verifier import Verifier
from train.distributed import World
from train.generation.batch import generate_batch
from train.model.transformer import Transformer
from train.objective import ObjectiveConfig
from train.objective.group_relative import Answers, group_advantages
from train.sampling import SamplingConfig

PATIENCE = 20
"""Steps in a row without two different rewards in a group at which it is time for a warning."""


@dataclass(frozen=True)
class Problem:
    """A problem of a batch.

    Args:
        prompt: its ids.
        answer: the expected one, as text.
        number: of its sequence in the run.
    """

    prompt: list[int]
    answer: str
    number: int


@dataclass(frozen=True)
class RolloutSettings:
    """How answers are written.

    Args:
        samples: answers to each problem.
        tokens: most of an answer, with the one that ends it.
        temperature: at which they are drawn.
        at_once: most answers written together.
        by_deviation: divide advantages by the standard deviation of their group's rewards.
        skips_alike: leave out answers to a problem that all have the same reward.
        length: T; a problem and its answer have T + 1 tokens at most.
        seed: of the run.
    """

    samples: int
    tokens: int
    temperature: float
    at_once: int
    by_deviation: bool
    skips_alike: bool
    length: int
    seed: int


class Rollouts:
    """Writes and checks answers with the weights of a moment.

    Args:
        whole: gives the model with all its weights on this rank; see `Engine.whole`.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        verifier: Verifier,
        tokenizer: Tokenizer,
        world: World,
        whole: Callable[[], AbstractContextManager[Transformer]],
    ):
        self.settings, self.verifier, self.tokenizer = settings, verifier, tokenizer
        self.world, self.whole = world, whole
        self._told = torch.zeros(7, dtype=torch.float64)
        self._alike, self._reward = 0, 0.0

    def draw(self, batches: Sequence[Batch]) -> list[Answers]:
        """Return answers to the problems of a step in micro-batches like theirs, as many on every rank.

        Every rank calls it. What is missing to whole micro-batches are answers from which nothing is learnt.
        """
        samples = self.settings.samples
        problems = [problem for batch in batches for problem in self.problems(batch)]
        asked = [problem for problem in problems for _ in range(samples)]
        seeds = [self.seed(problem, sample) for problem in problems for sample in range(samples)]
        written, ended = self._write(asked, self.settings.temperature, seeds)
        rewards = self._rewards(asked, written, ended).view(len(problems), samples)
        advantages = group_advantages(rewards, self.settings.by_deviation).flatten().tolist()
        self._count(rewards, written, ended)
        rows = [
            (problem.prompt, ids + [self.tokenizer.end_of_document] * end, advantage)
            for problem, ids, end, advantage in zip(asked, written, ended, advantages, strict=True)
        ]
        if self.settings.skips_alike:
            differ = (rewards != rewards[:, :1]).any(dim=1).repeat_interleave(samples).tolist()
            rows = [row for row, is_kept in zip(rows, differ, strict=True) if is_kept]
        micro = len(batches[0].tokens)
        sequences = micro * max(1, *self.world.gather(-(-len(rows) // micro)))
        rows += [([self.tokenizer.end_of_document] * 2, [], 0.0)] * (sequences - len(rows))
        # Answers of like length share a micro-batch: the shorter ones are padded less.
        rows.sort(key=lambda row: -len(row[0]) - len(row[1]))
        return [self._micro_batch(rows[first : first + micro]) for first in range(0, sequences, micro)]

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Return of a batch of held-out problems how many the likeliest answers solve and how long those are.

        Every rank calls it.
        """
        problems = self.problems(batch)
        written, ended = self._write(problems, 0.0, [0] * len(problems))
        solved = self._rewards(problems, written, ended).sum()
        length = sum(len(ids) + end for ids, end in zip(written, ended))
        return {"loss": len(problems) - solved, "solved": solved, "answer_tokens": torch.tensor(float(length))}

    def figures(self, seen: Tensor) -> dict[str, float]:
        """Return what the last step's answers of all ranks came to. Every rank calls it.

        Args:
            seen: (3,) while they were learnt from: summed KL, clipped tokens and all tokens, over all updates.
        """
        told = torch.cat((self._told, seen.double().cpu()))
        problems, informative, solved, answers, right, cut, tokens, divergence, clipped, learnt = self.world.sum(
            told.to(self.world.device)
        ).tolist()
        self._alike = 0 if informative else self._alike + 1
        self._reward = right / max(1.0, answers)
        return {
            "reward": self._reward,
            "solved": solved / max(1.0, problems),
            "informative": informative / max(1.0, problems),
            "answer_tokens": tokens / max(1.0, answers),
            "cut": cut / max(1.0, answers),
            "kl": divergence / max(1.0, learnt),
            "clipped": clipped / max(1.0, learnt),
        }

    def warning(self) -> str | None:
        """Return, when it is time, that nothing is learnt, and what to do; the same on every rank."""
        if self._alike != PATIENCE:
            return None
        mend = "take harder problems"
        if self._reward < 1:
            mend = (
                "see with `headrace generate` what it writes, then take easier problems, start from a model that "
                "solves some, or raise objective.samples, objective.temperature or objective.tokens"
            )
        return (
            f"for {PATIENCE} steps all answers to a problem have had the same reward (mean {self._reward:.3g}), so "
            f"that nothing is learnt: {mend}"
        )

    def problems(self, batch: Batch) -> list[Problem]:
        """Return the problems of a batch, each of which has a sequence to itself."""
        if batch.labels is None:
            return []
        found = []
        ids = torch.cat((batch.tokens, batch.targets[:, -1:]), dim=1)
        for row, labels, number in zip(ids, batch.labels & EXPECTED != 0, batch.numbers):
            expected = labels.nonzero().flatten().tolist()
            if not expected:
                continue  # its shard is left out
            first = expected[0]
            answer = [token for token in row[first : expected[-1] + 1].tolist() if token >= 0]
            if answer and answer[-1] == self.tokenizer.end_of_document:
                answer.pop()
            found.append(Problem(row[:first].tolist(), self.tokenizer.decode(answer), number))
        return found

    def seed(self, problem: Problem, sample: int) -> int:
        return xxhash.xxh3_64_intdigest(f"{self.settings.seed} {problem.number} {sample}".encode()) >> 1

    def _write(
        self, problems: Sequence[Problem], temperature: float, seeds: Sequence[int]
    ) -> tuple[list[list[int]], list[bool]]:
        """Return an answer to each problem, and whether it came to its end; the end itself is left out."""
        with self.whole() as model:
            config = replace(model.config, maximum_length=self.settings.length + 1)
            sampling = SamplingConfig(self.settings.tokens, temperature, top_p=1.0)
            written = generate_batch(
                model, config, [problem.prompt for problem in problems], sampling, self.world.device,
                model.norm.weight.dtype, seeds, [self.tokenizer.end_of_document], at_once=self.settings.at_once,
            )  # fmt: skip
        room = (min(self.settings.tokens, self.settings.length + 1 - len(problem.prompt)) for problem in problems)
        return written, [len(ids) < most for ids, most in zip(written, room)]

    def _rewards(self, problems: Sequence[Problem], written: Sequence[list[int]], ended: Sequence[bool]) -> Tensor:
        """Return 1 for each answer that is right and came to its end, and 0 for the others."""
        return torch.tensor(
            [
                float(end and self.verifier.accepts(self.tokenizer.decode(ids), problem.answer))
                for problem, ids, end in zip(problems, written, ended, strict=True)
            ]
        )

    def _count(self, rewards_PS: Tensor, written: Sequence[list[int]], ended: Sequence[bool]) -> None:
        told = [
            len(rewards_PS),
            int((rewards_PS != rewards_PS[:, :1]).any(dim=1).sum()),
            int((rewards_PS > 0).any(dim=1).sum()),
            rewards_PS.numel(),
            float(rewards_PS.sum()),
            ended.count(False),
            sum(map(len, written)) + sum(ended),
        ]
        self._told = torch.tensor(told, dtype=torch.float64)

    def _micro_batch(self, rows: Sequence[tuple[list[int], list[int], float]]) -> Answers:
        longest = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.end_of_document)
        is_answer = torch.zeros((len(rows), longest), dtype=torch.bool)
        for row, (prompt, answer, _) in enumerate(rows):
            stop = len(prompt) + len(answer)
            ids[row, :stop] = torch.tensor(prompt + answer)
            is_answer[row, len(prompt) : stop] = True
        targets = ids[:, 1:].masked_fill(~is_answer[:, 1:], IGNORED)
        advantages = torch.tensor([advantage for _, _, advantage in rows], dtype=torch.float32)
        device = self.world.device
        tokens, targets = ids[:, :-1].contiguous().to(device), targets.to(device)
        return Answers(tokens, targets, None, range(len(rows)), advantages=advantages.to(device))


def build_rollouts(
    config: ObjectiveConfig,
    length: int,
    seed: int,
    tokenizer: Tokenizer,
    world: World,
    whole: Callable[[], AbstractContextManager[Transformer]],
) -> Rollouts:
    """Return what writes and checks answers for the objective `grpo`; `config` must be checked.

    Args:
        length: T.
        seed: of the run.
        whole: gives the model with all its weights on this rank.
    """
    assert config.samples and config.tokens and config.temperature and config.at_once and config.verifier
    assert config.extract is not None
    settings = RolloutSettings(
        config.samples, config.tokens, config.temperature, config.at_once,
        bool(config.by_deviation), bool(config.skip_alike), length, seed,
    )  # fmt: skip
    return Rollouts(settings, Verifier(config.verifier, config.extract), tokenizer, world, whole)
