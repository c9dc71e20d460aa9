"""Experts, which our model and Transformers' hold stacked and Mixtral's files hold one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from train.exchange.weights import Weights

EACH = "*"
"""In a name, in the place of an expert's number: the tensor of all experts, stacked."""
NUMBER = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def names_of_each(name: str, shape: tuple[int, ...]) -> list[str]:
    """Return the names in a file of a tensor: of each expert, or its own."""
    return [name.replace(EACH, str(expert)) for expert in range(shape[0])] if EACH in name else [name]


def one_by_one(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what is in a file for tensors that may be stacked."""
    return {
        each: shape[1:] if EACH in name else shape
        for name, shape in shapes.items()
        for each in names_of_each(name, shape)
    }


def reading_one_by_one(read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """Return a reader of single experts, from one of stacked ones; each stack is read once if its experts follow."""
    last: dict[str, Tensor] = {}

    def one(name: str) -> Tensor:
        found = NUMBER.search(name)
        if found is None:
            return read(name)
        stacked = NUMBER.sub(EACH, name)
        if stacked not in last:
            last.clear()
            last[stacked] = read(stacked)
        return last[stacked][int(found.group())]

    return one


class StackedExperts:
    """Weights of a file in which experts are stacked, by names with `EACH`; all else is as it is."""

    def __init__(self, weights: Weights):
        self._weights = weights
        found: dict[str, dict[int, tuple[int, ...]]] = {}
        for name, shape in weights.shapes.items():
            if number := NUMBER.search(name):
                found.setdefault(NUMBER.sub(EACH, name), {})[int(number.group())] = shape
        whole = {
            name: (len(shapes), *shapes[0])
            for name, shapes in found.items()
            if sorted(shapes) == list(range(len(shapes))) and len(set(shapes.values())) == 1
        }
        stacked = {each for name, shape in whole.items() for each in names_of_each(name, shape)}
        self.shapes: Mapping[str, tuple[int, ...]] = whole | {
            name: shape for name, shape in weights.shapes.items() if name not in stacked
        }

    def read(self, name: str) -> Tensor:
        """Return one tensor, float32."""
        if EACH not in name:
            return self._weights.read(name)
        return torch.stack([self._weights.read(each) for each in names_of_each(name, self.shapes[name])])


class FusedExperts:
    """Weights of a Mixtral's file by the names and in the shapes that Transformers 5 has them in memory."""

    def __init__(self, stacked: StackedExperts):
        self._stacked = stacked
        self._names: dict[str, tuple[str, ...]] = {}
        for name in stacked.shapes:
            layer, is_expert, part = name.partition(f".block_sparse_moe.experts.{EACH}.")
            if not is_expert:
                self._names[name.replace(".block_sparse_moe.gate.", ".mlp.gate.")] = (name,)
            elif part == "w1.weight":
                self._names[f"{layer}.mlp.experts.gate_up_proj"] = (name, name.replace(".w1.", ".w3."))
            elif part == "w2.weight":
                self._names[f"{layer}.mlp.experts.down_proj"] = (name,)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: self._shape(parts) for name, parts in self._names.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor, float32."""
        parts = [self._stacked.read(part) for part in self._names[name]]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _shape(self, parts: tuple[str, ...]) -> tuple[int, ...]:
        shape = self._stacked.shapes[parts[0]]
        return (shape[0], 2 * shape[1], *shape[2:]) if len(parts) > 1 else shape
