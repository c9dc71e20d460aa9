"""How far a student's next-token distributions are from its teacher's, without holding the logits of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.model.cross_entropy import summed_loss

FORWARD, REVERSE = "forward", "reverse"


@dataclass(frozen=True)
class Mixture:
    """What a student learns of a token.

    Args:
        divergence: `forward` is KL(teacher ‖ student), which covers all that the teacher says; `reverse` is
            KL(student ‖ teacher), which keeps to what it says most (Gu et al. 2024, MiniLLM).
        temperature: τ, by which both models' logits are divided.
        hard_weight: of the cross-entropy against the text; the divergence has the rest.
    """

    divergence: str
    temperature: float
    hard_weight: float


@dataclass(frozen=True)
class Taught:
    """What a teacher makes its logits of: hidden states (N, E) and its head's weight (V, E)."""

    hidden_NE: Tensor
    weight_VE: Tensor


def linear_distillation(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, taught: Taught, mixture: Mixture
) -> Tensor:
    """Return hard_weight · cross-entropy + (1 - hard_weight) · τ² · divergence at temperature τ, summed in float32.

    The factor τ² keeps the gradients of both in proportion (Hinton et al. 2015).

    Args:
        hidden_ND: (N, D) outputs of the student's last layer.
        weight_VD: (V, D) of the student's head.
        targets_N: (N,) int64; tokens with a negative one are left out.
        taught: of the same tokens.
    """
    tau, hard, soft = mixture.temperature, mixture.hard_weight, 1.0 - mixture.hard_weight

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, Callable[[], Tensor]]:
        ignored = targets_N[rows] < 0
        column = targets_N[rows].clamp(min=0).unsqueeze(1)
        teacher = ((taught.hidden_NE[rows] @ taught.weight_VE.t()).float() / tau).log_softmax(dim=1)
        student = (logits / tau).log_softmax(dim=1)
        first, second = (teacher, student) if mixture.divergence == FORWARD else (student, teacher)
        divergence = (first.exp() * (first - second)).sum(dim=1)
        log_partition = logits.logsumexp(dim=1)
        entropy = log_partition - logits.gather(1, column).squeeze(1)
        losses = hard * entropy + soft * tau**2 * divergence

        def gradient() -> Tensor:
            if mixture.divergence == FORWARD:
                by_logits = student.exp().sub_(teacher.exp())
            else:
                by_logits = student.exp().mul_((student - teacher).sub_(divergence.unsqueeze(1)))
            by_logits.mul_(soft * tau).add_(logits.sub_(log_partition.unsqueeze(1)).exp_(), alpha=hard)
            by_logits.scatter_add_(1, column, torch.full_like(column, -hard, dtype=by_logits.dtype))
            return by_logits.masked_fill_(ignored.unsqueeze(1), 0.0)

        return losses.masked_fill(ignored, 0.0).sum(), gradient

    return summed_loss(hidden_ND, weight_VD, loss)


def hidden_states(model: Any, **inputs: Any) -> Tensor:
    """Return a model's outputs before its head, (N, D)."""
    return model(**inputs, output=lambda hidden_ND, _: hidden_ND)
