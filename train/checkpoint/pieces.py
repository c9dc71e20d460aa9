"""Where DeepSpeed keeps the float32 master weights and optimizer moments of each parameter, stage by stage.

The state of a master tensor lies in `optimizer.state[tensor]` at every stage: under AdamW two moments, under Lion one,
under Muon one of a matrix, and the weights' average. What differs is which tensor holds which elements of which
parameter:

- stage 0: the parameter itself, whole on every rank;
- stages 1 and 2: this rank's partition of all parameters laid end to end, reached through `_hp_mapping`;
- stage 3: this rank's partition of each parameter, laid end to end per sub-group, reached through `grad_position`.

Where ranks split the model, a parameter here is a part of one: some rows, whose elements are a range of the whole's, or
some columns. What is whole on all of those ranks, each of them holds alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from train.checkpoint.state_file import MASTER, PieceRange
from train.lion import Lion
from train.model.split_layers import SplitLayers, split_axis
from train.muon import Muon

if TYPE_CHECKING:
    from train.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"
"""The moving average of a master, kept among its moments where there is one."""


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a flattened parameter, or of some of its columns, in `master` from `offset` on.

    A frozen one has no moments.
    """

    parameter: str
    shape: tuple[int, ...]
    start: int
    stop: int
    master: Tensor
    offset: int
    frozen: bool = False
    columns: tuple[int, int] | None = None

    def range(self, kind: str) -> PieceRange:
        return PieceRange(self.parameter, kind, self.start, self.stop, self.shape, self.columns)

    def of(self, flat: Tensor) -> Tensor:
        """Return the piece's view of a tensor laid out like its master."""
        return flat.detach().view(-1)[self.offset : self.offset + self.stop - self.start]


def local_pieces(engine: Engine) -> list[Piece]:
    """Return the pieces of what is trained that this rank holds. At stage 0 that is everything, on every rank."""
    pieces = _pieces_here(engine)
    return pieces if engine.place.split is None else [_in_whole(piece, engine.place.split) for piece in pieces]


def _in_whole(piece: Piece, split: SplitLayers) -> Piece:
    """Return a piece of a rank's own parameter as one of the model's."""
    shape, first, columns = split.located(piece.parameter, piece.shape)
    return replace(piece, shape=shape, start=first + piece.start, stop=first + piece.stop, columns=columns)


def _pieces_here(engine: Engine) -> list[Piece]:
    found = []
    parameter: Any  # DeepSpeed hangs attributes of its own on parameters
    for name, parameter in engine.module.named_parameters():
        if engine.stage == 0:
            found.append(Piece(name, tuple(parameter.shape), 0, parameter.numel(), parameter, 0))
        elif engine.stage in (1, 2):
            mapping = parameter._hp_mapping
            if mapping is not None:
                master = engine.deepspeed.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
                start, count = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                offset = mapping.hp_fragment_address.start
                found.append(Piece(name, tuple(parameter.shape), start, start + count, master, offset))
        else:
            optimizer = engine.deepspeed.optimizer
            group, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = min(engine.partition * count, parameter.ds_numel)
            stop = min(start + count, parameter.ds_numel)  # the last partition is padded
            if start < stop:
                master = optimizer.fp32_partitioned_groups_flat[group]
                found.append(Piece(name, tuple(parameter.ds_shape), start, stop, master, int(offset)))
    return found


def frozen_pieces(engine: Engine) -> list[Piece]:
    """Return what adapters are trained beside: whole, on every rank. Without adapters there is nothing."""
    return [
        Piece(name, tuple(buffer.shape), 0, buffer.numel(), buffer, 0, frozen=True)
        for name, buffer in engine.module.named_buffers()
    ]


def owned_pieces(engine: Engine) -> list[Piece]:
    """Return the pieces that this rank writes: over all ranks, each element of each parameter once."""
    world, split, own = engine.world, engine.place.split, local_pieces(engine)
    if engine.stage == 0:
        own = _shares(own, engine.partition, engine.partitions)
    if split is not None:
        parts = [piece for piece in own if split_axis(piece.parameter) is not None]
        wholes = [piece for piece in own if split_axis(piece.parameter) is None]
        own = parts + _shares(wholes, split.number, split.ranks)
    return own + _shares(frozen_pieces(engine), world.rank, world.size)


def _shares(pieces: list[Piece], rank: int, ranks: int) -> list[Piece]:
    """Return this rank's shares of what several hold alike."""
    shares = []
    for piece in pieces:
        before, behind = ((piece.stop - piece.start) * number // ranks for number in (rank, rank + 1))
        if before < behind:
            start, stop = piece.start + before, piece.start + behind
            shares.append(replace(piece, start=start, stop=stop, offset=piece.offset + before))
    return shares


def state_of(engine: Engine, pieces: list[Piece]) -> Iterator[tuple[PieceRange, Tensor]]:
    """Yield the master weights and moments of pieces, as views."""
    states = _moments_by_master(engine)
    for piece in pieces:
        yield piece.range(MASTER), piece.of(piece.master)
        if piece.frozen:
            continue
        for kind in moments_in(states[id(piece.master)]):
            yield piece.range(kind), piece.of(states[id(piece.master)][kind])


def whole_copies(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Yield what every rank holds a whole copy of, or of its own part where ranks split the model, by name, as views.

    At stage 0 that is all state, at 1 and 2 the working weights, at 3 the parameters that are too small to partition.
    """
    if engine.stage == 0:
        for piece, values in state_of(engine, local_pieces(engine)):
            yield piece.key, values
        return
    parameter: Any
    for name, parameter in engine.module.named_parameters():
        if engine.stage != 3 or parameter.ds_status.name == "AVAILABLE":
            yield name, parameter.detach()


def optimizer_steps(engine: Engine) -> int:
    """Return how many updates the optimizer has made, which AdamW's bias correction depends on."""
    return int(next(iter(_moments_by_master(engine).values()))["step"])


def restore_optimizer(engine: Engine, steps: int) -> dict[int, dict[str, Tensor]]:
    """Give the optimizer empty moments for every master tensor that this rank steps, as after `steps` updates.

    Returns:
        the moments by the master tensor's `id`, to be filled.
    """
    optimizer = torch_optimizer(engine)
    # A stage keeps the tensors it steps in lists of its own; parameter groups hold them one at a time, during the step.
    for master in _masters(engine):
        optimizer.state[master] = {
            "step": torch.tensor(float(steps), device=master.device),
            **{kind: torch.zeros_like(master, requires_grad=False) for kind in _kinds_of(engine, master)},
        }
    return _moments_by_master(engine)


def moments_in(state: dict[str, Tensor]) -> list[str]:
    """Return the moments that a master's state has, and the average."""
    return [kind for kind in (*MOMENTS, AVERAGE) if kind in state]


def elements_of(engine: Engine, pieces: list[Piece]) -> int:
    """Return how many elements the master weights and moments of pieces have, before there are any moments, too."""
    kinds = {id(master): len(_kinds_of(engine, master)) for master in _masters(engine)}
    return sum((1 if each.frozen else 1 + kinds[id(each.master)]) * (each.stop - each.start) for each in pieces)


def _kinds_of(engine: Engine, master: Tensor) -> tuple[str, ...]:
    optimizer = torch_optimizer(engine)
    moments = optimizer.kinds_of(master) if isinstance(optimizer, Muon | Lion) else MOMENTS
    return (*moments, AVERAGE) if engine.ema.decay else moments


def spread_masters(engine: Engine) -> None:
    """Bring the working weights in line with the master weights, on all ranks."""
    optimizer = engine.deepspeed.optimizer
    if engine.stage in (1, 2):
        optimizer.update_lp_params()
    elif engine.stage == 3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def masters_with_names(engine: Engine) -> list[tuple[Tensor, list[str]]]:
    """Return the tensors that this rank steps, each with the parameters that lie in it on this rank or another.

    They come in the order in which they are stepped, the same on every rank.
    """
    optimizer = engine.deepspeed.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    if engine.stage == 0:
        return [(master, [names[id(master)]]) for master in _masters(engine)]
    groups = optimizer.bit16_groups if engine.stage in (1, 2) else optimizer.fp16_groups
    return [(master, [names[id(each)] for each in group]) for master, group in zip(_masters(engine), groups)]


def masters_with_state(engine: Engine) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the tensors that this rank steps, each with its state: none before the first update."""
    state = torch_optimizer(engine).state
    return [(master, state[master]) for master in _masters(engine)]


def _masters(engine: Engine) -> list[Tensor]:
    optimizer = engine.deepspeed.optimizer
    if engine.stage == 0:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if engine.stage in (1, 2):
        return list(optimizer.single_partition_of_fp32_groups)
    return list(optimizer.fp32_partitioned_groups_flat)


def torch_optimizer(engine: Engine) -> torch.optim.Optimizer:
    """Return the optimizer that DeepSpeed was given."""
    optimizer = engine.deepspeed.optimizer
    return optimizer if engine.stage == 0 else optimizer.optimizer


def _moments_by_master(engine: Engine) -> dict[int, dict[str, Tensor]]:
    return {id(master): state for master, state in masters_with_state(engine)}
