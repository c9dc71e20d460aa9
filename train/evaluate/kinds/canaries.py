"""Exposure of canaries: secrets planted in training data, ranked by likelihood among all that they could have been.

Source: Carlini et al. 2019, The Secret Sharer: exposure = log2 of the number of candidates - log2 of the secret's rank.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from train.evaluate.kinds.prompted import TaskConfig
from train.evaluate.scores import Column, Outcome
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel


@dataclass
class CanariesTask(TaskConfig):
    """Secrets of `letters` behind texts that were planted with them.

    Args:
        prefix: template of what stands before a secret.
        secret: template of it.
        letters: that it could have been made of, each letter of it being any of them.
        candidates: most that a secret is ranked among; where there are more, so many are drawn, and the rank among all
            is estimated from theirs.
        seed: of that draw.
    """

    prefix: str = "{{ prefix }}"
    secret: str = "{{ secret }}"
    letters: str = "0123456789"
    candidates: int = 1000
    seed: int = 0

    def check(self) -> None:
        if len(set(self.letters)) < 2 or len(set(self.letters)) < len(self.letters) or self.candidates < 2:
            raise UserError("canaries take two or more different letters, and candidates ≥ 2")

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        exposures, chances, details = [], [], []
        for row, record in enumerate(records):
            prefix = render(self.prefix, record, f"{name}: prefix")
            secret = render(self.secret, record, f"{name}: secret")
            if not secret or set(secret) - set(self.letters):
                raise UserError(f"{name}: the secret `{secret}` is not made of the letters {self.letters}")
            space = len(self.letters) ** len(secret)
            others = self._others(secret, space, row)
            scored = [each.nats for each in model.likelihoods([(prefix, each) for each in (secret, *others)])]
            likelier = sum(nats > scored[0] for nats in scored[1:])
            rank, ranked = likelier + 1, len(others) + 1
            # log2 |R| - log2 rank, where drawn candidates estimate rank / |R| by their own.
            exposures.append(math.log2(ranked) - math.log2(rank))
            chances.append(chance_exposure(ranked))
            details.append({"prefix": prefix, "secret": secret, "rank": rank, "ranked": ranked, "space": space})
        return Outcome({"exposure_bits": Column(exposures, chances=chances)}, details)

    def _others(self, secret: str, space: int, row: int) -> list[str]:
        """Return other candidates: all of them, or as many different ones as are wanted."""
        if space <= self.candidates:
            every = map("".join, itertools.product(self.letters, repeat=len(secret)))
            return [each for each in every if each != secret]
        draw = random.Random(f"{self.seed} {row}")
        drawn: dict[str, None] = {}
        while len(drawn) < self.candidates - 1:
            each = "".join(draw.choice(self.letters) for _ in secret)
            if each != secret:
                drawn[each] = None
        return list(drawn)


def chance_exposure(candidates: int) -> float:
    """Return the mean exposure of what was never seen, whose every rank is as likely: near log2 e = 1.44 bits."""
    return math.log2(candidates) - math.lgamma(candidates + 1) / math.log(2) / candidates
