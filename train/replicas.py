"""Silent corruption: copies of the same weights on several ranks that are no longer the same, bit for bit.

A flipped bit in one rank's copy spreads with the next gradient to all, and no loss tells. What every rank holds whole
is hashed on its device and compared: the working weights at ZeRO stages 0 to 2, at 0 the optimizer's moments too, at 3
only the small parameters that stay whole. Where ranks split the model, its parts are compared among those that hold the
same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure
from train.checkpoint.pieces import whole_copies
from train.engine import Engine
from train.model.split_layers import split_axis

CHUNK_ELEMENTS = 1 << 22
NAMES_SHOWN = 5
WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
MULTIPLIER = 0x2545F4914F6CDD1D
"""Odd (Vigna 2016), as all weights of the sum then are."""

LEAST = torch.iinfo(torch.int64).min
"""Of two, the largest is always the other."""


def check_replicas(engine: Engine) -> None:
    """Compare what the ranks hold alike. Every rank calls it.

    Raises:
        Failure: on every rank, where copies differ; names the parameters, and the ranks as far as a majority is there.
    """
    world, split = engine.world, engine.place.split
    if world.size == 1:
        return
    held: list[tuple[str, Tensor | None]] = []
    for name, copy in whole_copies(engine):
        found = bit_hash(copy)
        if split is None or split_axis(name.partition("/")[0]) is None:
            held.append((name, found))
        else:
            parts = range(split.ranks)
            held += [(f"part {part} of {name}", found if part == split.number else None) for part in parts]
    names = [name for name, _ in held]
    if not names:
        return
    is_here = torch.tensor([found is not None for _, found in held], device=world.device)
    mine = torch.stack([is_here.new_zeros((), dtype=torch.int64) if found is None else found for _, found in held])
    # Two numbers per copy tell whether all ranks have the same; all hashes travel only if they haven't.
    extremes = torch.cat((mine.where(is_here, LEAST), (~mine).where(is_here, LEAST)))
    torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
    largest, smallest = extremes[: len(names)], ~extremes[len(names) :]
    if torch.equal(largest, smallest):
        return
    differing = (largest != smallest).nonzero().flatten().tolist()
    hashes = world.gather([int(found) if (found := held[number][1]) is not None else None for number in differing])
    raise Failure(describe([names[number] for number in differing], hashes))


def bit_hash(values: Tensor) -> Tensor:
    """Return a 64-bit hash of a tensor's bits, computed on its device, as an int64 scalar.

    Each word is multiplied with an odd number that depends on its place, and added up modulo 2^64: a change of any one
    word always changes the sum, other changes go unseen with a probability of about 2^-64.
    """
    words = values.detach().contiguous().view(-1).view(WORDS[values.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    for first in range(0, words.numel(), CHUNK_ELEMENTS):
        chunk = words[first : first + CHUNK_ELEMENTS].to(torch.int64)
        places = torch.arange(first, first + chunk.numel(), device=values.device)
        places.mul_(MULTIPLIER).bitwise_xor_(places >> 29).mul_(2).add_(1)
        total += (chunk * places).sum()
    return total


def describe(names: Sequence[str], hashes: Sequence[Sequence[int | None]]) -> str:
    """Return what to tell a person about copies that differ.

    Args:
        names: of the copies.
        hashes: (ranks, copies), None where a rank has no copy.
    """
    outvoted: set[int] = set()
    for column in zip(*hashes):
        voting = [each for each in column if each is not None]
        value, votes = Counter(voting).most_common(1)[0]
        if votes * 2 > len(voting):
            outvoted |= {rank for rank, each in enumerate(column) if each not in (value, None)}
        else:
            outvoted = set(range(len(column)))
            break
    shown = ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    )
    if len(outvoted) < len(hashes):
        who = f"{'ranks' if len(outvoted) > 1 else 'rank'} {', '.join(map(str, sorted(outvoted)))} of {len(hashes)}"
        fault = f"{who} has another copy of {shown} than the others"
    else:
        fault = (
            f"the {len(hashes)} ranks have different copies of {shown}, and there is no majority to say which is right"
        )
    return (
        f"silent corruption: {fault}. Nothing of it is saved. Memory or a device may be bad: check it, then start the "
        "run again, and it goes on from its newest checkpoint"
    )
