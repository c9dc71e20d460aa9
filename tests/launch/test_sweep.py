"""Sweeps: the product of all values, in Hydra's notation."""

from __future__ import annotations

import pytest

from data_pipeline.foundation.errors import UserError
from launch.sweep import combinations


def test_runs_are_the_product_of_all_values_with_numbered_names():
    runs = combinations(["run.name=try", "seed=1,2", "steps=10", "model=nano,micro"])
    assert runs == [
        ["run.name=try-0", "seed=1", "steps=10", "model=nano"],
        ["run.name=try-1", "seed=1", "steps=10", "model=micro"],
        ["run.name=try-2", "seed=2", "steps=10", "model=nano"],
        ["run.name=try-3", "seed=2", "steps=10", "model=micro"],
    ]


def test_ranges_and_choices_are_swept_and_lists_are_values():
    assert combinations(["seed=range(0,3)"]) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert combinations(["seed=choice(4,5)", "data.weights={a: 1, b: 2}"])[1] == ["seed=5", "data.weights={a: 1, b: 2}"]


@pytest.mark.parametrize("overrides", [["seed=1"], ["seed=1,2", "x={"], ["seed=range(0,5000)"]])
def test_what_is_no_sweep_is_refused(overrides):
    with pytest.raises(UserError):
        combinations(overrides)
