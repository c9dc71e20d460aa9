"""Whole matrices out of the pieces that ZeRO leaves each rank, worked on one at a time, and back into their pieces.

Beside `train/checkpoint/pieces.py`, which knows where the pieces lie. What a rank holds whole it works on alone; what
straddles ranks is brought together on one of those that hold a piece: at stages 1 and 2 only the matrices in which a
partition ends, at stage 3 all, spread over the ranks by what they cost. Buffers are bounded, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.checkpoint.pieces import local_pieces, masters_with_names
from train.distributed import World

if TYPE_CHECKING:
    from train.engine import Engine

Work = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spread:
    """A matrix over all ranks.

    Args:
        ranges: (start, stop) of the elements of the flattened matrix that each rank holds, equal where it has none.
        offset: of this rank's elements in its flat tensor.
    """

    shape: tuple[int, int]
    ranges: tuple[tuple[int, int], ...]
    offset: int

    @property
    def holders(self) -> list[int]:
        return [rank for rank, (start, stop) in enumerate(self.ranges) if start < stop]

    @property
    def cost(self) -> int:
        """Of making it orthogonal, in multiplications."""
        return self.shape[0] * self.shape[1] * min(self.shape)

    def held_by(self, rank: int) -> int:
        return self.ranges[rank][1] - self.ranges[rank][0]

    def piece(self, flat: Tensor, rank: int) -> Tensor:
        return flat[self.offset : self.offset + self.held_by(rank)]


class Matrices:
    """The matrices whose pieces lie in one flat tensor of each rank.

    Args:
        spreads: of every matrix, on all ranks in the same order.
        world: whose ranks hold the pieces.
        bound: elements that a rank receives at once; a larger matrix is exchanged alone.
    """

    def __init__(self, spreads: Sequence[Spread], world: World, bound: int):
        self._world = world
        owners = owners_of(spreads, world.size)
        self._mine = [s for s, owner in zip(spreads, owners) if owner == world.rank and len(s.holders) == 1]
        straddling = [(s, owner) for s, owner in zip(spreads, owners) if len(s.holders) > 1]
        self._rounds = [_Round(each, world) for each in rounds_of(straddling, bound)]

    def replace(self, flat: Tensor, work: Work) -> None:
        """Put in the place of every matrix what some work makes of it. Every rank calls it.

        Args:
            flat: this rank's tensor, changed in place.
            work: from a matrix (rows, columns) on the rank's device to one of the same shape.
        """
        flat = flat.view(-1)
        for spread in self._mine:
            piece = spread.piece(flat, self._world.rank)
            piece.copy_(work(piece.view(spread.shape).to(self._world.device)).flatten())
        for each in self._rounds:
            each.replace(flat, work)


class _Round:
    """One exchange: pieces to the owners of their matrices, and back.

    Both buffers are laid out by the other rank, then by matrix, so that the way back is the way there reversed.
    """

    def __init__(self, owned: Sequence[tuple[Spread, int]], world: World):
        self._world = world
        rank, others = world.rank, range(world.size)
        self._given = [[s for s, owner in owned if owner == other != rank and s.held_by(rank)] for other in others]
        self._owned = [s for s, owner in owned if owner == rank]
        self._gives = [sum(s.held_by(rank) for s in each) for each in self._given]
        self._gets = [sum(s.held_by(other) for s in self._owned) if other != rank else 0 for other in others]

    def replace(self, flat: Tensor, work: Work) -> None:
        rank, device = self._world.rank, self._world.device
        given = torch.empty(sum(self._gives), dtype=flat.dtype, device=device)
        got = torch.empty(sum(self._gets), dtype=flat.dtype, device=device)
        for spread, part in self._parts_given(given):
            part.copy_(spread.piece(flat, rank))
        torch.distributed.all_to_all_single(got, given, self._gets, self._gives)
        at = [sum(self._gets[:other]) for other in range(self._world.size)]
        for spread in self._owned:
            parts = []
            for other in spread.holders:
                count = spread.held_by(other)
                parts.append(spread.piece(flat, rank) if other == rank else got[at[other] : at[other] + count])
                at[other] += count
            whole = torch.cat([part.to(device) for part in parts])
            changed = work(whole.view(spread.shape)).flatten()
            for part, values in zip(parts, changed.split([part.numel() for part in parts])):
                part.copy_(values)
        torch.distributed.all_to_all_single(given, got, self._gives, self._gets)
        for spread, part in self._parts_given(given):
            spread.piece(flat, rank).copy_(part)

    def _parts_given(self, given: Tensor) -> Iterator[tuple[Spread, Tensor]]:
        at = 0
        for spread in (s for each in self._given for s in each):
            count = spread.held_by(self._world.rank)
            yield spread, given[at : at + count]
            at += count


def owners_of(spreads: Sequence[Spread], ranks: int) -> list[int]:
    """Return the rank that works on each matrix: one that holds a piece of it, and has least to do so far.

    What one rank holds whole is settled first, then what costs most (Graham 1969, longest processing time first).
    """
    owners, load = [0] * len(spreads), [0] * ranks
    order = sorted(range(len(spreads)), key=lambda n: (len(spreads[n].holders) > 1, -spreads[n].cost, n))
    for number in order:
        owner = min(spreads[number].holders, key=lambda rank: (load[rank], rank))
        owners[number] = owner
        load[owner] += spreads[number].cost
    return owners


def rounds_of(owned: Sequence[tuple[Spread, int]], bound: int) -> list[list[tuple[Spread, int]]]:
    """Divide matrices and their owners into rounds, in each of which an owner gets `bound` elements or one matrix."""
    queues: dict[int, list[list[tuple[Spread, int]]]] = {}
    room: dict[int, int] = {}
    for spread, owner in owned:
        received = spread.shape[0] * spread.shape[1] - spread.held_by(owner)
        queue = queues.setdefault(owner, [])
        if not queue or room[owner] < received:
            queue.append([])
            room[owner] = bound
        queue[-1].append((spread, owner))
        room[owner] -= received
    return [[each for part in parts for each in part] for parts in zip_longest(*queues.values(), fillvalue=[])]


def matrices_by_master(engine: Engine, matrices: Collection[str], bound: int) -> dict[int, Matrices]:
    """Return the matrices in each master tensor that holds some, by the tensor's `id`. Every rank calls it.

    Args:
        matrices: names of parameters; a master tensor holds none but them, or none of them.
        bound: elements that a rank receives at once.
    """
    world, pieces = engine.world, {piece.parameter: piece for piece in local_pieces(engine)}
    shapes = {name: getattr(each, "ds_shape", each.shape) for name, each in engine.module.named_parameters()}
    held = [(pieces[name].start, pieces[name].stop) if name in pieces else (0, 0) for name in shapes]
    mine = torch.tensor(held, dtype=torch.int64, device=world.device)
    ranges = [torch.empty_like(mine) for _ in range(world.size)]
    torch.distributed.all_gather(ranges, mine)
    of_parameters = dict(zip(shapes, torch.stack(ranges, dim=1).tolist()))

    def spread(name: str) -> Spread:
        rows, columns = shapes[name]
        of_ranks = tuple((int(start), int(stop)) for start, stop in of_parameters[name])
        return Spread((rows, columns), of_ranks, pieces[name].offset if name in pieces else 0)

    return {
        id(master): Matrices([spread(name) for name in names], world, bound)
        for master, names in masters_with_names(engine)
        if names[0] in matrices
    }
