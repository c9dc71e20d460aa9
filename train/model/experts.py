"""A mixture of experts (Shazeer et al. 2017): each token goes through the few of many layers that a router chooses.

None is left out, however unequal the load (Gale et al. 2022, MegaBlocks): tokens are laid out by expert, and the
products of all experts are one grouped product. At ZeRO stage 3 the experts of a layer are gathered together, so that
ranks whose tokens choose differently still communicate alike. Where layers are split over ranks, each has some experts
whole, and works on the rows of all tokens that chose one of them; nothing is sent to it for that.

Shape suffixes: B sequences, T tokens, D width of the model, E experts, C of them chosen per token, R = B · T · C rows
in the order of their experts, r those of a rank's own experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, linear, silu

from train.model.feed_forward import FeedForward
from train.model.layers import Linear
from train.model.split_layers import SplitLayers, parts_of

if TYPE_CHECKING:
    from train.model.shared_sequence import SharedSequence
    from train.model.transformer import TransformerConfig


class Routed(NamedTuple):
    """What a layer's router did with a batch.

    Args:
        balance_B: E · Σ over experts of their share of the choices times their mean probability (Fedus et al. 2021,
            Switch Transformers), of each sequence by itself: 1 where all have as much to do.
        z_B: mean square of the router's log-partition (Zoph et al. 2022, ST-MoE).
        load_E: choices of each expert.

    Where ranks share sequences, each has its part of these sums.

    A sequence is balanced by itself, as in DeepSeek-V3 (2024), so that what is learnt doesn't depend on which other
    sequences share its micro-batch or rank; a loss over micro-batches would.
    """

    balance_B: Tensor
    z_B: Tensor
    load_E: Tensor


class Router(Linear):
    """Scores experts in float32 whatever the model's precision: rounding would change which are chosen."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config.width, config.experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.float(), self.weight.float())


class Experts(nn.Module):
    """The feed-forward layers (SwiGLU) of all experts of a block, or of those that are here."""

    def __init__(self, config: TransformerConfig, split: SplitLayers | None = None):
        super().__init__()
        self.count = config.experts // parts_of(split)
        into = (self.count, config.hidden_width, config.width)
        self.gate, self.up = nn.Parameter(torch.empty(into)), nn.Parameter(torch.empty(into))
        self.down = nn.Parameter(torch.empty(self.count, config.width, config.hidden_width))

    def forward(self, x_RD: Tensor, ends_E: Tensor) -> Tensor:
        """Return each row's output.

        Args:
            x_RD: rows in the order of their experts.
            ends_E: int32, behind the last row of each expert.
        """
        if len(x_RD) == 0:  # no token chose one that is here, for which there is no kernel; gradients are 0 then
            return x_RD + torch.stack([each.flatten()[:1] for each in (self.gate, self.up, self.down)]).sum()
        gate, up = (grouped_mm(x_RD, each.transpose(1, 2), offs=ends_E) for each in (self.gate, self.up))
        return grouped_mm(silu(gate) * up, self.down.transpose(1, 2), offs=ends_E)


class MixtureOfExperts(nn.Module):
    """In the place of a feed-forward layer. The weights of a token's experts add up to 1, as in Mixtral (2024)."""

    def __init__(self, config: TransformerConfig, split: SplitLayers | None = None):
        super().__init__()
        self.active, self.split = config.active_experts, split
        self.router = Router(config)
        self.experts = Experts(config, split)
        # Its output is added to that of the experts before ranks add up theirs.
        hidden = config.shared_width // parts_of(split)
        self.shared_expert = FeedForward(config, hidden) if hidden else None
        self.shared: SharedSequence | None = None

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Routed | None]:
        """Return the outputs, and in training what the router did."""
        scores_BTE = self.router(x_BTD)
        weights_BTC, chosen_BTC = scores_BTE.softmax(-1).topk(self.active, -1)
        weights_BTC = weights_BTC / weights_BTC.sum(-1, keepdim=True)
        chosen_R = chosen_BTC.flatten()
        order_R = chosen_R.argsort(stable=True)
        load_E = torch.zeros(scores_BTE.shape[-1], dtype=torch.int64, device=chosen_R.device)
        load_E.scatter_add_(0, chosen_R, torch.ones_like(chosen_R))
        if self.split is not None:
            x_BTD, weights_BTC = self.split.entering(x_BTD), self.split.entering(weights_BTC)
            output_BTD = self._of_own(x_BTD, weights_BTC, order_R, load_E, self.split.number * self.experts.count)
        else:
            output_BTD = self._of_all(x_BTD, weights_BTC, order_R, load_E)
        if self.shared_expert is not None:
            output_BTD = output_BTD + self.shared_expert(x_BTD)
        if self.split is not None:
            output_BTD = self.split.summed(output_BTD)
        return output_BTD, _told(scores_BTE, chosen_BTC, load_E, self.shared) if self.training else None

    def _of_all(self, x_BTD: Tensor, weights_BTC: Tensor, order_R: Tensor, load_E: Tensor) -> Tensor:
        back_R = torch.empty_like(order_R)
        back_R[order_R] = torch.arange(len(order_R), device=order_R.device)
        rows_RD = _laid_out(x_BTD.flatten(0, 1), order_R, back_R, self.active)
        outputs_RD = self.experts(rows_RD, load_E.cumsum(0).to(torch.int32))
        outputs_RD = _laid_out(outputs_RD, back_R, order_R, 1)
        weighted = outputs_RD.view(*weights_BTC.shape, -1) * weights_BTC.to(x_BTD.dtype).unsqueeze(-1)
        return weighted.sum(2)

    def _of_own(self, x_BTD: Tensor, weights_BTC: Tensor, order_R: Tensor, load_E: Tensor, first: int) -> Tensor:
        """Return what the experts from `first` on, which are here, have to do with each token.

        How many rows that are has to be known, for which a GPU is waited for in every layer.
        """
        before, own = load_E[:first].sum(), load_E[first : first + self.experts.count]
        start, rows = torch.stack((before, own.sum())).tolist()
        own_r = order_R[start : start + rows]
        rows_rD = _Taken.apply(x_BTD.flatten(0, 1), own_r, self.active)
        outputs_rD = self.experts(rows_rD, own.cumsum(0).to(torch.int32))
        weights_r = weights_BTC.flatten().index_select(0, own_r).to(x_BTD.dtype)
        return _Returned.apply(outputs_rD * weights_r.unsqueeze(-1), own_r, self.active, len(order_R)).view_as(x_BTD)


def _told(scores_BTE: Tensor, chosen_BTC: Tensor, load_E: Tensor, shared: SharedSequence | None) -> Routed:
    sequences, tokens, experts = scores_BTE.shape
    ones = torch.ones_like(chosen_BTC, dtype=torch.float32).flatten(1)
    choices_BE = torch.zeros(sequences, experts, device=ones.device).scatter_add_(1, chosen_BTC.flatten(1), ones)
    if shared is not None:
        choices_BE, tokens = shared.sum(choices_BE), tokens * shared.ranks
    shares_BE = choices_BE / (tokens * chosen_BTC.shape[-1])
    balance_B = experts * (shares_BE * scores_BTE.softmax(-1).sum(1)).sum(-1) / tokens
    return Routed(balance_B, scores_BTE.logsumexp(-1).square().sum(1) / tokens, load_E)


class _LaidOut(torch.autograd.Function):
    """Rows in another order, each taken `copies` times; backward without scattering, so the same on every run."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order_R: Tensor, back_R: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(back_R)
        ctx.copies = copies
        return x_ND.index_select(0, order_R // copies if copies > 1 else order_R)

    @staticmethod
    def backward(ctx: Any, gradient_RD: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (back_R,) = ctx.saved_tensors
        gradient_RD = gradient_RD.index_select(0, back_R)
        if ctx.copies > 1:
            gradient_RD = gradient_RD.view(-1, ctx.copies, gradient_RD.shape[-1]).sum(1)
        return gradient_RD, None, None, None


def _laid_out(x_ND: Tensor, order_R: Tensor, back_R: Tensor, copies: int) -> Tensor:
    """Return row `order_R // copies` of x for each place; `back_R` is the inverse of `order_R`."""
    return _LaidOut.apply(x_ND, order_R, back_R, copies)


class _Taken(torch.autograd.Function):
    """Rows of some of all choices, `copies` of which each row of x has."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, own_r: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(own_r)
        ctx.copies, ctx.choices = copies, len(x_ND) * copies
        return x_ND.index_select(0, own_r // copies)

    @staticmethod
    def backward(ctx: Any, gradient_rD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (own_r,) = ctx.saved_tensors
        return _returned(gradient_rD, own_r, ctx.copies, ctx.choices), None, None


class _Returned(torch.autograd.Function):
    """The way back of `_Taken`: what the rows came from gets the sum of its own."""

    @staticmethod
    def forward(ctx: Any, rows_rD: Tensor, own_r: Tensor, copies: int, choices: int) -> Tensor:
        ctx.save_for_backward(own_r)
        ctx.copies = copies
        return _returned(rows_rD, own_r, copies, choices)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (own_r,) = ctx.saved_tensors
        return gradient_ND.index_select(0, own_r // ctx.copies), None, None, None


def _returned(rows_rD: Tensor, own_r: Tensor, copies: int, choices: int) -> Tensor:
    """Return (choices / copies, D), added up without scattering, so the same on every run."""
    placed_RD = rows_rD.new_zeros(choices, rows_rD.shape[-1]).index_copy_(0, own_r, rows_rD)
    return placed_RD.view(-1, copies, rows_rD.shape[-1]).sum(1)


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, other: Tensor) -> Tensor:
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, gradient


def with_loss_beside(loss: Tensor, other: Tensor) -> Tensor:
    """Return a loss as it is, whose gradient is that of its sum with another one, which nobody is told as the loss."""
    return _Beside.apply(loss, other.to(loss.dtype))


@dataclass(frozen=True)
class RouterTally:
    """What the routers of all layers did in a step's micro-batches.

    Args:
        balance, z: summed over targets, of all layers together.
        load_LE: choices of each expert of each layer.
    """

    balance: Tensor
    z: Tensor
    load_LE: Tensor

    def __add__(self, other: RouterTally) -> RouterTally:
        return RouterTally(self.balance + other.balance, self.z + other.z, self.load_LE + other.load_LE)

    def flat(self) -> Tensor:
        """Return all of it as (2 + L · E,) float64, to be summed over ranks."""
        return torch.cat((torch.stack((self.balance, self.z)).double(), self.load_LE.flatten().double()))


def router_figures(flat: list[float], layers: int, targets: int) -> dict[str, float]:
    """Return what is told of a step's routers.

    Args:
        flat: a tally, summed over ranks.

    Returns:
        both losses per layer and target; the load of the busiest expert of any layer, as a multiple of an even share;
        the share of experts that no token chose.
    """
    balance, z, *load = flat
    load_LE = torch.tensor(load, dtype=torch.float64).view(layers, -1)
    even_LE = load_LE * load_LE.shape[1] / load_LE.sum(1, keepdim=True).clamp(min=1.0)
    return {
        "balance_loss": balance / max(1, targets) / layers,
        "router_z_loss": z / max(1, targets) / layers,
        "busiest_expert": float(even_LE.max()),
        "idle_experts": float((load_LE == 0).double().mean()),
    }
