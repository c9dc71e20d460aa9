"""Group relative policy optimisation: of several answers to a problem, those better than their mean become likelier.

GRPO (Shao et al. 2024, "DeepSeekMath"): an answer's advantage is how far its reward is above the mean of its group's,
in standard deviations; the ratio of the policy to the one that wrote the answer is clipped as in PPO (Schulman et al.
2017); and the policy may be held to a frozen reference by the KL divergence, estimated without bias by
r - log r - 1 with r = reference / policy (Schulman 2020). Options are the higher upper clip and the mean over all
tokens of DAPO (Yu et al. 2025), and the sum over tokens by a constant, and advantages without deviation, of Dr. GRPO
(Liu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from data_pipeline.loader import Batch
from train.model.cross_entropy import linear_log_probabilities
from train.model.transformer import Transformer

SEQUENCE, TOKEN, CONSTANT = "sequence", "token", "constant"
NORMALISATIONS = {
    SEQUENCE: "the mean over answers of the mean over an answer's tokens (GRPO)",
    TOKEN: "the mean over the tokens of all answers (DAPO)",
    CONSTANT: "the mean over answers of the sum over tokens, by the most tokens of an answer (Dr. GRPO)",
}


@dataclass(frozen=True)
class Answers(Batch):
    """A micro-batch of answers behind their problems.

    Args:
        advantages: (sequences,) float32.
        before: (sequences · T,) float32, log-probabilities of the targets when they were written; None while the
            policy is still the one that wrote them.
    """

    advantages: Tensor | None = None
    before: Tensor | None = None


@dataclass(frozen=True)
class Clipping:
    """How far the ratio may go before it teaches nothing more: from 1 - low to 1 + high."""

    low: float
    high: float


def group_advantages(rewards_PS: Tensor, by_deviation: bool) -> Tensor:
    """Return by how much each reward is above the mean of its row, by the row's standard deviation if asked for."""
    above = rewards_PS - rewards_PS.mean(dim=1, keepdim=True)
    if not by_deviation:
        return above
    deviation = above.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(deviation > 0, above / deviation.clamp(min=1e-9), 0.0)


class GroupRelativePolicy:
    """-(min(ρ·A, clip(ρ)·A) - β·KL) of every token of an answer, normalised over tokens and answers.

    Args:
        clipping: of the ratio ρ.
        beta: β, how strongly the policy is held to the reference.
        normalisation: one of `NORMALISATIONS`.
        tokens: most of an answer.
        temperature: at which answers are drawn, and so that of the policy.
        reference: frozen, held whole by every rank; None where β is 0.
        measure: what held-out problems come to, with `loss`; see `Rollouts.measure`.
    """

    is_likelihood = False

    def __init__(
        self,
        clipping: Clipping,
        beta: float,
        normalisation: str,
        tokens: int,
        temperature: float,
        reference: Transformer | None = None,
        measure: Callable[[Batch], dict[str, Tensor]] | None = None,
    ):
        self.clipping, self.beta, self.normalisation, self.tokens = clipping, beta, normalisation, tokens
        self.temperature, self.reference, self.measure = temperature, reference, measure
        self._told: list[Tensor] = []

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch, Answers) and batch.advantages is not None
        now = self.log_probabilities(model, batch)
        counted = batch.targets >= 0
        before = now.detach() if batch.before is None else batch.before.view_as(now)
        advantages = batch.advantages.unsqueeze(1)
        ratio = (now - before).exp()
        clipped = ratio.clamp(1 - self.clipping.low, 1 + self.clipping.high)
        losses = -torch.minimum(ratio * advantages, clipped * advantages)
        divergence = torch.zeros_like(now)
        if self.reference is not None:
            with torch.no_grad():
                reference = self.log_probabilities(self.reference, batch)
            divergence = (reference - now).exp() - (reference - now) - 1
            losses = losses + self.beta * divergence
        is_clipped = clipped * advantages < ratio * advantages
        counts = [divergence.detach() * counted, is_clipped & counted, counted]
        self._told.append(torch.stack([each.sum().double() for each in counts]))
        by_answer = losses.masked_fill(~counted, 0.0).sum(dim=1)
        if self.normalisation == SEQUENCE:
            by_answer = by_answer / counted.sum(dim=1).clamp(min=1)
        elif self.normalisation == CONSTANT:
            by_answer = by_answer / self.tokens
        return by_answer.sum()

    def log_probabilities(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Return the policy's log-probabilities of the targets, (sequences, T) in float32."""
        targets = batch.targets.flatten()

        def output(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
            return linear_log_probabilities(hidden_ND / self.temperature, weight_VD, targets)

        return model(batch.tokens, output=output).view(batch.tokens.shape)

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what the likeliest answers to a batch's problems come to; `loss` counts those that are wrong."""
        assert self.measure is not None
        return self.measure(batch)

    def target_count(self, batch: Batch) -> int:
        if not isinstance(batch, Answers):
            return len(batch.numbers)
        if self.normalisation == TOKEN:
            return batch.counted_targets
        return int((batch.targets >= 0).any(dim=1).sum())

    def remembering(self, model: Callable[..., Tensor], batch: Answers) -> Answers:
        """Return a batch with the log-probabilities that its targets have before the policy changes."""
        return replace(batch, before=self.log_probabilities(model, batch).detach().flatten())

    def take_told(self) -> Tensor:
        """Return what has been seen since the last call: summed KL, clipped tokens, all tokens; (3,) float64."""
        told = torch.stack(self._told).sum(dim=0) if self._told else torch.zeros(3, dtype=torch.float64)
        self._told = []
        return told
