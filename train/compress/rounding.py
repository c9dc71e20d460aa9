"""Grids for a matrix's groups, and rounding to the nearest value."""

from __future__ import annotations

import torch
from torch import Tensor

from train.model.quantized import Grid, Packed, Scheme, full_grid, grid_between, pack

SHARES = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)
"""Of a group's range that a grid may reach over: what lies outside is rounded to its ends."""
REFITS = 3
"""Times that a grid is fitted to the codes it leads to, and these to it."""
ROWS = 1 << 22
"""Values of a matrix worked on at once."""


def choose_grid(weight_NK: Tensor, scheme: Scheme, clip: bool = True, importance_K: Tensor | None = None) -> Grid:
    """Return the grid with the least squared error of those over a share of each group's range, then fitted to it.

    A few large values needn't be met at the price of all others: a group of normally distributed values has the least
    error when its ends are cut off.

    Args:
        clip: choose; else the whole range.
        importance_K: (K,) weight of each column's squared error, as its inputs' second moments say; None is 1.

    Raises:
        ValueError: groups don't divide the rows.
    """
    height = max(1, ROWS // weight_NK.shape[1])
    parts = [
        _choose(weight_NK[start : start + height].float(), scheme, clip, importance_K)
        for start in range(0, weight_NK.shape[0], height)
    ]
    minimum = (
        None if parts[0].minimum is None else torch.cat([part.minimum for part in parts if part.minimum is not None])
    )
    return Grid(scheme, torch.cat([part.scale for part in parts]), minimum)


def _choose(weight_NK: Tensor, scheme: Scheme, clip: bool, importance_K: Tensor | None) -> Grid:
    best = full_grid(weight_NK, scheme)
    if not clip:
        return best
    low, high = torch.aminmax(weight_NK.view(*best.scale.shape, -1), dim=2)
    least = _error(weight_NK, best, importance_K)
    for share in SHARES[1:]:
        best, least = _better(weight_NK, best, least, grid_between(scheme, low * share, high * share), importance_K)
    for _ in range(REFITS):
        best, least = _better(weight_NK, best, least, _refitted(weight_NK, best, importance_K), importance_K)
    return best


def _better(
    weight_NK: Tensor, best: Grid, least: Tensor, other: Grid, importance_K: Tensor | None
) -> tuple[Grid, Tensor]:
    """Return, of two grids, each group's with the smaller error, and that error."""
    error = _error(weight_NK, other, importance_K)
    better = error < least
    minimum = None
    if best.minimum is not None and other.minimum is not None:
        minimum = torch.where(better, other.minimum, best.minimum)
    return Grid(best.scheme, torch.where(better, other.scale, best.scale), minimum), torch.where(better, error, least)


def _refitted(weight_NK: Tensor, grid: Grid, importance_K: Tensor | None) -> Grid:
    """Return the grid that meets the values best by least squares, while each keeps the code it has."""
    shape = (*grid.scale.shape, -1)
    codes, values = grid.encode(weight_NK).float().view(shape), weight_NK.view(shape)
    weights = torch.ones_like(values) if importance_K is None else importance_K.view(1, shape[1], -1)
    products = (weights * codes * values).sum(2)
    squares = (weights * codes * codes).sum(2)
    if grid.minimum is None:
        return Grid(grid.scheme, products / squares.clamp(min=1e-30), None)
    total = (weights * torch.ones_like(values)).sum(2)
    codes_mean, values_mean = (weights * codes).sum(2) / total, (weights * values).sum(2) / total
    spread = (squares - total * codes_mean**2).clamp(min=1e-30)
    scale = (products - total * codes_mean * values_mean) / spread
    return Grid(grid.scheme, scale.half(), (values_mean - scale * codes_mean).half())


def _error(weight_NK: Tensor, grid: Grid, importance_K: Tensor | None) -> Tensor:
    """Return the squared error of each group, (N, groups)."""
    error = (grid.decode(grid.encode(weight_NK)) - weight_NK).square_()
    if importance_K is not None:
        error *= importance_K
    return error.view(*grid.scale.shape, -1).sum(dim=2)


def round_to_nearest(weight_NK: Tensor, scheme: Scheme, clip: bool = True) -> Packed:
    """Return a matrix with each element rounded to the nearest value of its group's grid."""
    weight_NK = weight_NK.float()
    grid = choose_grid(weight_NK, scheme, clip)
    return pack(grid, grid.encode(weight_NK))
