"""Codes, grids, roundings against closed forms; GPTQ against a direct solution; products against restored weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.compress.gptq import gptq
from train.compress.rounding import choose_grid, round_to_nearest
from train.model.quantized import FEW, PackedWeight, Scheme, full_grid, pack, unpack

SCHEMES = [Scheme(8, 0), Scheme(8, 32), Scheme(4, 32), Scheme(4, 0)]


def drawn(rows: int = 48, columns: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("scheme", SCHEMES)
def test_values_move_by_half_a_scale_at_most_where_nothing_is_clipped(scheme):
    weight = drawn()
    packed = round_to_nearest(weight, scheme, clip=False)
    scale = packed.grid.scale.float().repeat_interleave(64 // packed.grid.scale.shape[1], dim=1)
    # Of four bits scale and smallest value are float16: 15 steps of a scale that is 2^-11 off, and an offset as exact.
    slack = 0.501 if scheme.bits == 8 else 0.5 + 16 * 2**-11 + 0.01
    assert ((packed.values() - weight).abs() <= slack * scale).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_element_gets_the_nearest_value_of_its_grid(scheme):
    weight = drawn(8)
    packed = round_to_nearest(weight, scheme)
    codes = torch.arange(-127, 128) if scheme.bits == 8 else torch.arange(16)
    scale = packed.grid.scale.float().repeat_interleave(64 // packed.grid.scale.shape[1], dim=1)
    values = codes.view(-1, 1, 1) * scale
    if packed.grid.minimum is not None:
        values = values + packed.grid.minimum.float().repeat_interleave(64 // scheme.groups(64), dim=1)
    least = (values - weight).abs().min(dim=0).values
    torch.testing.assert_close((packed.values() - weight).abs(), least, atol=1e-7, rtol=0)


def test_a_clipped_grid_has_no_larger_error_and_with_heavy_tails_a_smaller_one():
    weight = drawn() ** 3
    whole, chosen = (round_to_nearest(weight, Scheme(4, 64), clip).values() for clip in (False, True))
    errors = [(values - weight).square().sum(dim=1) for values in (whole, chosen)]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.95 * errors[0].sum()


def test_columns_that_matter_decide_where_a_grid_is_clipped():
    weight = drawn()
    weight[:, 5] *= 8
    importance = torch.ones(64)
    importance[5] = 1000.0
    grids = [choose_grid(weight, Scheme(4, 64), True, each) for each in (None, importance)]
    errors = [(grid.decode(grid.encode(weight)) - weight)[:, 5].abs().sum() for grid in grids]
    assert errors[1] < errors[0]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_packing_keeps_every_code(rows, halves, seed):
    codes = torch.randint(16, (rows, 2 * halves), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack(full_grid(torch.zeros(rows, 2 * halves), Scheme(4, 0)), codes)
    assert packed.codes.shape == (rows, halves) and packed.shape == (rows, 2 * halves)
    assert torch.equal(unpack(packed.codes, 4).to(torch.int8), codes)


def test_constant_and_zero_groups_are_met_exactly():
    weight = torch.cat((torch.zeros(2, 32), torch.full((2, 32), 0.25)), dim=1)
    for scheme in (Scheme(4, 32), Scheme(8, 32)):
        torch.testing.assert_close(round_to_nearest(weight, scheme).values(), weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [1, FEW, FEW + 1, 40])
def test_a_packed_product_is_that_of_the_restored_weights(scheme, rows):
    weight, x = drawn(96, 64), torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
    packed = round_to_nearest(weight, scheme)
    found = PackedWeight(packed)(x)
    expected = x.double() @ packed.values().double().t()
    by_kernel = scheme != Scheme(8, 32) and rows <= FEW
    # PyTorch's kernels take activations in bfloat16, which has 8 bits.
    allowed = 3e-2 * float(expected.std()) if by_kernel else 1e-5
    assert float((found - expected).abs().max()) <= allowed


def direct_gptq(weight: torch.Tensor, gram: torch.Tensor, scheme: Scheme, damping: float) -> torch.Tensor:
    """What Frantar et al. derive GPTQ from, solved anew for each column: after one is rounded, the others that are
    left take the values with the least error of the products, given what has been rounded."""
    damped = gram.double() + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    grid = choose_grid(weight, scheme, clip=False)
    order = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    left, done = list(order), []
    now = weight.double().clone()
    for column in order:
        codes = grid.encode(now.float())
        rounded = grid.decode(codes).double()[:, column]
        left.remove(column)
        done.append(column)
        error = now[:, column] - rounded
        now[:, column] = rounded
        if left:
            inside = damped[left][:, left]
            now[:, left] += torch.outer(error, torch.linalg.solve(inside, damped[left, column]))
    return now


@pytest.mark.parametrize("scheme", [Scheme(4, 4), Scheme(8, 0)])
def test_gptq_is_the_direct_solution(scheme):
    weight = drawn(6, 12)
    inputs = torch.randn(200, 12, generator=torch.Generator().manual_seed(2)) @ torch.randn(12, 12)
    gram = inputs.t() @ inputs
    found = gptq(weight, gram, scheme, damping=0.01, clip=False).values()
    torch.testing.assert_close(found.double(), direct_gptq(weight, gram, scheme, 0.01), atol=1e-5, rtol=0)


def test_gptq_changes_products_less_than_rounding_does():
    generator = torch.Generator().manual_seed(3)
    weight = drawn(32, 128)
    inputs = torch.randn(500, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    gram = inputs.t() @ inputs
    errors = [
        float((inputs @ (values - weight).t()).square().sum())
        for values in (gptq(weight, gram, Scheme(4, 32)).values(), round_to_nearest(weight, Scheme(4, 32)).values())
    ]
    assert errors[0] < 0.6 * errors[1]


def test_inputs_that_were_always_zero_do_no_harm():
    weight = drawn(8, 16)
    gram = torch.zeros(16, 16)
    gram[:8, :8] = torch.eye(8)
    values = gptq(weight, gram, Scheme(4, 4), clip=False).values()
    assert values.isfinite().all()
    assert (values - weight).abs().max() < 0.02


def test_groups_must_divide_rows():
    with pytest.raises(ValueError, match="groups of 48 don't divide rows of 64"):
        round_to_nearest(drawn(), Scheme(4, 48))
    assert [Scheme(4, group).groups(64) for group in (32, 0)] == [2, 1]


def test_gptq_needs_no_order_of_groups():
    """Columns are rounded by the size of their inputs; each still lies on the grid of its own group."""
    weight = drawn(4, 16)
    gram = torch.diag(torch.tensor([float(number % 5 + 1) for number in range(16)]))
    packed = gptq(weight, gram, Scheme(4, 4), clip=False)
    # With inputs that have nothing to do with each other there is nothing to make up for: it is plain rounding.
    torch.testing.assert_close(packed.values(), round_to_nearest(weight, Scheme(4, 4), clip=False).values())
