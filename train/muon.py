"""Muon: momentum whose update of a matrix is made orthogonal, beside AdamW for all that is no hidden layer's matrix.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of the update is that
of Liu et al. 2025, "Muon is scalable for LLM training", with which AdamW's rates and decay serve for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from train.moments import state_of

if TYPE_CHECKING:
    from train.matrix_exchange import Matrices

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values to about 1 (Jordan et al. 2024)."""
ITERATIONS = 5
ADAMW_SIZE = 0.2
"""Root mean square of AdamW's usual updates."""


class Muon(torch.optim.Optimizer):
    """Muon for groups with `orthogonal`, AdamW for the others.

    Under ZeRO 1 to 3 what is stepped is a flat tensor of pieces. Momentum and decay go by element; for what doesn't,
    `matrices` says of each such tensor, by its `id`, how whole matrices are had from it.

    Args:
        groups: of parameters, each with `orthogonal` and `weight_decay`; those of an orthogonal group are matrices, or
            have `matrices`.
        momentum: of the orthogonal groups, in Nesterov's form.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})
        self.matrices: dict[int, Matrices] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one update of all parameters that have a gradient."""
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._orthogonal if group["orthogonal"] else self._adamw)(with_gradient, group)

    def kinds_of(self, parameter: Tensor) -> tuple[str, ...]:
        """Return the names of the moments that a parameter, or a flat tensor of pieces, has."""
        orthogonal = id(parameter) in self.matrices or any(
            group["orthogonal"] and any(parameter is each for each in group["params"]) for group in self.param_groups
        )
        return ("exp_avg",) if orthogonal else ("exp_avg", "exp_avg_sq")

    def _orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = state_of(self, parameter, ("exp_avg",))
            state["step"] += 1
            average = state["exp_avg"].mul_(group["momentum"]).add_(gradient)
            update = gradient.add_(average, alpha=group["momentum"])
            if id(parameter) in self.matrices:
                self.matrices[id(parameter)].replace(update, orthogonal_update)
            else:
                update = orthogonal_update(update)
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [state_of(self, parameter, ("exp_avg", "exp_avg_sq")) for parameter in parameters]
        if not parameters:
            return
        torch._fused_adamw_(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"].add_(1) for state in states],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def orthogonal_update(matrix: Tensor) -> Tensor:
    """Return a matrix (rows, columns) made orthogonal, of the size of AdamW's updates (Liu et al. 2025, equation 4)."""
    return orthogonalised(matrix).mul_(ADAMW_SIZE * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix with orthonormal rows or columns.

    Newton–Schulz's iteration drives singular values, but for tiny ones, to between 0.7 and 1.2. It runs in float32 on
    a CPU, whose bfloat16 is slow and was measured to be too coarse, and in bfloat16 on a GPU.

    Args:
        matrix: (rows, columns).
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    found = found / (found.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.T
        gram = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.addmm(found, gram, found, beta=a)
    return (found.T if tall else found).to(matrix.dtype)
