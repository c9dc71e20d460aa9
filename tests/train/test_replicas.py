"""Copies are told apart by any single bit, and a fault is blamed on whom the others outvote."""

from __future__ import annotations

import pytest
import torch

from train.replicas import bit_hash, describe


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_flipped_bit_changes_the_hash(dtype):
    values = torch.randn(257, generator=torch.Generator().manual_seed(1)).to(dtype)
    words = values.view(torch.uint8)
    whole = bit_hash(values)
    for bit in range(0, words.numel() * 8, 7):
        words[bit // 8] ^= 1 << bit % 8
        assert bit_hash(values) != whole
        words[bit // 8] ^= 1 << bit % 8
    assert bit_hash(values) == whole


def test_equal_numbers_of_other_bits_and_numbers_in_other_places_differ():
    assert bit_hash(torch.tensor([0.0, 1.0])) != bit_hash(torch.tensor([-0.0, 1.0]))
    assert bit_hash(torch.tensor([1.0, 2.0])) != bit_hash(torch.tensor([2.0, 1.0]))
    assert bit_hash(torch.tensor([float("nan")])) == bit_hash(torch.tensor([float("nan")]))


def test_long_tensors_are_hashed_as_one_and_views_as_what_they_show():
    values = torch.arange((1 << 22) + 3, dtype=torch.float32)
    changed = values.clone()
    changed[-1] += 1
    assert bit_hash(values) == bit_hash(values.view(-1, 1)) != bit_hash(changed)
    square = torch.randn(5, 7)
    assert bit_hash(square.t()) == bit_hash(square.t().contiguous()) != bit_hash(square)


def test_the_rank_that_the_others_outvote_is_named():
    message = describe(["norm.weight/master", "norm.weight/exp_avg"], [[1, 5], [1, 5], [2, 6]])
    assert "rank 2 of 3 has another copy of norm.weight/master, norm.weight/exp_avg than the others" in message
    assert "ranks 0, 3 of 5" in describe(["a", "b"], [[9, 5], [1, 5], [1, 5], [1, 4], [1, 5]])


def test_without_a_majority_nobody_is_blamed():
    assert "the 2 ranks have different copies of a, and there is no majority" in describe(["a"], [[1], [2]])
    assert "no majority" in describe(["a", "b"], [[1, 1], [1, 2], [2, 3]])


def test_of_many_parameters_a_few_are_named():
    assert "p0, p1, p2, p3, p4 and 7 more" in describe([f"p{n}" for n in range(12)], [[1] * 12, [2] * 12])
