"""The memory of a rank through a step: what is held at each of its moments, and at which of them that is most.

A step is not fullest where textbooks look. Weights, moments and partitions are there all the time; activations are
most when gradients are least, and while those are reduced, DeepSpeed copies them into buckets and flattens those. So
each moment is added up by itself, and the largest counts. Formulas: Rajbhandari et al. 2020 (ZeRO) for what is
partitioned, DeepSpeed 0.19.8's stage_1_and_2.py and stage3.py for copies and buckets, our model for activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from train.memory.activations import Activations, activations
from train.memory.layout import Layout
from train.memory.sizes import ParameterSizes, parameter_sizes
from train.model.transformer import TransformerConfig
from train.reduction import sums_in_place

FLOAT = 4
PLAIN_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at once at stage 0, where our bucket doesn't reach."""

LIVE_PARAMETERS = 1_000_000_000
"""Elements that stage 3 keeps gathered, because they are needed again soon (`max_live_parameters`'s default)."""

UNCOLLECTED = 0.5
"""Of the weights that stage 3 gathers, as copies in reference cycles of DeepSpeed's hooks that wait for the garbage
collector: between an eighth and nearly all were seen, depending on when it runs."""

SUBGROUP = 1_000_000_000
"""Elements that stage 3 updates at once (`sub_group_size`'s default)."""


@dataclass(frozen=True)
class Held:
    """Bytes held at a moment, by what they are for.

    Args:
        parameters: what the model computes with, and at stage 3 this rank's share of it and what is gathered.
        optimizer: float32 weights and moments.
        buffers: buckets, flat copies, and the copies that collectives need.
    """

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    loss: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def plus(self, **bytes_of: int) -> Held:
        """Return a copy with more of some parts."""
        return replace(self, **{part: getattr(self, part) + more for part, more in bytes_of.items()})


@dataclass(frozen=True)
class Footprint:
    """What a rank needs.

    Args:
        moments: on the device, by the name of the moment, in the order of a step.
        host: bytes in host memory beside: what is offloaded. On a CPU it's part of `moments`.
    """

    moments: dict[str, Held]
    host: int

    @property
    def moment(self) -> str:
        """The moment at which most is held."""
        return max(self.moments, key=lambda name: self.moments[name].total)

    @property
    def peak(self) -> Held:
        return self.moments[self.moment]


def footprint(model: TransformerConfig, layout: Layout, sizes: ParameterSizes | None = None) -> Footprint:
    """Return the memory that a training step takes on the rank that needs most.

    Args:
        model: resolved configuration.
        sizes: of the parameters of a rank, if they are known.
    """
    sizes = sizes or parameter_sizes(model, tensor_ranks=layout.tensor_ranks)
    kept = activations(model, layout)
    gradients = Gradients(sizes, layout, model)
    device, host = _state(sizes, layout)
    device = device.plus(buffers=int(UNCOLLECTED * gradients.gathered) + gradients.lingering)
    carried = gradients.carried
    # At stage 3 gathered weights are there from the forward pass on, unless there are too many of them.
    start = device.plus(gradients=carried, parameters=gradients.gathered)
    bucket = gradients.bucket if layout.zero.stage == 2 else 0
    first = 0 if carried or layout.zero.stage == 3 else gradients.of_head
    moments = {
        "loss": start.plus(activations=kept.kept + kept.head, loss=kept.loss),
        "gradient of the loss": start.plus(activations=kept.kept + kept.head, loss=kept.scaling),
        "backward, last block": start.plus(
            activations=kept.kept + kept.passing, gradients=first, buffers=bucket + gradients.of_block
        ),
        "first reduction": start.plus(activations=kept.kept, buffers=bucket + gradients.early_reduction),
        "backward, first block": start.plus(
            activations=_one_block(kept, layout) + kept.passing,
            gradients=0 if carried else gradients.whole,
            buffers=bucket + gradients.of_block + gradients.in_between,
        ),
        "embedding's gradient": start.plus(
            gradients=gradients.whole - (carried if gradients.whole else 0), buffers=bucket + gradients.of_embedding
        ),
        "reducing gradients": device.plus(
            gradients=gradients.whole or carried, buffers=bucket + gradients.reduction, parameters=gradients.left
        ),
        "update": device.plus(gradients=gradients.at_update, buffers=gradients.update),
    }
    if not layout.is_gpu and host:
        moments = {name: held.plus(optimizer=host) for name, held in moments.items()}
    return Footprint(moments, host + kept.on_host if layout.is_gpu else 0)


def _one_block(kept: Activations, layout: Layout) -> int:
    return kept.boundary if layout.activation_checkpointing else kept.block


def _state(sizes: ParameterSizes, layout: Layout) -> tuple[Held, int]:
    """Return what is always there on the device, and in host memory: ZeRO's partitions, flat, float32 copies apart.

    In float32 too the weights that are updated are a copy of those that are computed with, but at stage 0.
    """
    zero, element, ranks = layout.zero, layout.element, layout.ranks
    total = sizes.total
    if zero.stage == 0:
        return Held(parameters=element * total, optimizer=FLOAT * sizes.in_moments), 0
    mine, host = -(-total // ranks), 0
    state = FLOAT * (mine + -(-sizes.in_moments // ranks))
    held = Held(parameters=element * (mine if zero.stage == 3 else total), optimizer=state)
    if zero.stage == 3:
        persistent = sizes.smaller_than(zero.persistence_threshold) if ranks > 1 else 0
        held = held.plus(
            parameters=element * persistent, gradients=element * mine, buffers=element * zero.reduce_bucket
        )
    if zero.offload_optimizer:
        # Beside them in host memory: their gradients, and stages 1 and 2 a copy in the weights' own precision.
        host += state + FLOAT * mine + (0 if zero.stage == 3 else element * mine)
        held = replace(held, optimizer=0, gradients=0)
        if zero.stage < 3:
            held = held.plus(buffers=element * sizes.largest)
            host += element * sizes.largest
    if zero.offload_parameters:
        host += element * mine
        held = replace(held, parameters=held.parameters - element * mine)
    return held, host


class Gradients:
    """What gradients and their reduction take, in bytes.

    Args:
        sizes: of the parameters.
        model: whose embedding's gradient, if tied, is made a second time before it is added to the head's.
    """

    def __init__(self, sizes: ParameterSizes, layout: Layout, model: TransformerConfig):
        self._sizes, self._zero, self._layout = sizes, layout.zero, layout
        self._element, self._ranks = layout.element, layout.ranks
        self._offloaded = layout.zero.offload_optimizer
        assert model.vocabulary_size is not None
        self.of_head = self._element * model.vocabulary_size * model.width
        self._tied = model.tied_embeddings
        self._matrix = self._element * model.width * model.hidden_width * max(1, model.experts) // layout.tensor_ranks

    @property
    def whole(self) -> int:
        """All gradients at the end of the backward pass; from stage 2 on there are only buckets of them."""
        return self._element * self._sizes.total if self._zero.stage < 2 else 0

    @property
    def of_embedding(self) -> int:
        """The embedding's gradient where it isn't among the whole ones, and what it is added to."""
        return self.of_head * ((self._zero.stage >= 2) + self._tied)

    @property
    def of_block(self) -> int:
        """The gradient of a block's matrix that hasn't gone into a bucket yet."""
        return self._matrix if self._zero.stage >= 2 else 0

    @property
    def owned(self) -> int:
        """This rank's own, at stage 2 whole parameters of which it has a part."""
        if self._zero.stage < 2 or self._offloaded:
            return 0
        return self._element * self._sizes.held_whole(self._ranks) if self._zero.stage == 2 else 0

    @property
    def carried(self) -> int:
        """What a micro-batch finds of those before it."""
        if self._layout.accumulation == 1:
            return 0
        return self.whole or self.owned

    @property
    def bucket(self) -> int:
        """The buffer that gradients are collected in at stage 2, two of them if reduction overlaps."""
        return self._element * self._zero.reduce_bucket * (2 if self._zero.overlap_communication else 1)

    @property
    def gathered(self) -> int:
        """Weights that stage 3 holds whole during the passes; one process uses its partition as it is."""
        if self._zero.stage < 3 or self._ranks == 1:
            return 0
        return self._element * min(self._sizes.total, LIVE_PARAMETERS)

    @property
    def left(self) -> int:
        """Gathered weights that aren't given back yet when the last gradients are reduced: the embedding's."""
        return min(self.gathered, self.of_head)

    @property
    def _alone(self) -> int:
        """A gradient that is larger than a bucket: reduced alone, and from stage 2 on there beside the bucket."""
        return self._element * self._sizes.largest if self._sizes.largest > self._bucket else 0

    def _flat(self, with_alone: bool) -> int:
        """What is reduced at once, flattened; gloo's reduce-scatter, at stage 3, works on a copy of its input."""
        flat = max(self._element * min(self._sizes.total, self._bucket), self._alone if with_alone else 0)
        return 2 * flat if self._zero.stage == 3 and not self._layout.is_gpu else flat

    @property
    def reduction(self) -> int:
        """Copies while the last gradients are reduced, at stage 2 with the rank's own part, taken out of the sum."""
        if (self._zero.stage == 0 and self._ranks == 1) or self._in_place:
            return 0
        flat = self._flat(with_alone=True)
        if self._zero.stage < 2:
            return flat
        return self._alone + (max(flat, self.owned) if self._flushes_once else flat + self.owned)

    @property
    def early_reduction(self) -> int:
        """Copies where a bucket is full, or the head's gradient too large for one, while activations are still there.

        A tied head's gradient waits for the embedding's.
        """
        if self._zero.stage < 2 or self._flushes_once:
            return 0
        alone = 0 if self._tied else self._alone
        return alone + max(self._flat(with_alone=not self._tied), self.owned)

    @property
    def in_between(self) -> int:
        """What stage 2 holds of this rank's own gradients while it still goes backward, and a bucket being reduced."""
        if self._zero.stage != 2 or self._flushes_once:
            return 0
        return self.owned + self._element * self._bucket

    @property
    def lingering(self) -> int:
        """A flattened bucket that gloo's thread still has: none, one or two were seen after several reductions."""
        several = self._ranks > 1 and self._zero.stage > 0 and not self._flushes_once and not self._in_place
        return self._element * self._bucket if several and not self._layout.is_gpu else 0

    @property
    def _in_place(self) -> bool:
        """Whether stage 1 sums gradients without a copy: see train/reduction.py."""
        return sums_in_place(self._zero, self._ranks, self._layout.is_gpu, self._element == FLOAT)

    @property
    def _bucket(self) -> int:
        return PLAIN_BUCKET if self._zero.stage == 0 else self._zero.reduce_bucket

    @property
    def _flushes_once(self) -> bool:
        return self._sizes.total <= self._bucket

    @property
    def at_update(self) -> int:
        return self.whole or self.owned

    @property
    def update(self) -> int:
        """A group's gradients flattened for the update, and turned into float32; and what Muon works in."""
        if self._zero.stage == 0 or self._offloaded:
            return self._orthogonalising
        mine = -(-self._sizes.largest_group // self._ranks)
        if self._zero.stage == 3:
            mine = min(mine, SUBGROUP)
        return self._orthogonalising + mine * (FLOAT if self._element == FLOAT else FLOAT + self._element)

    @property
    def _orthogonalising(self) -> int:
        """Newton–Schulz's copies of the largest matrix and of its Gram matrix, and what ranks exchange for it.

        At stages 1 and 2 a rank exchanges at most the two matrices in which its partition ends.
        """
        matrices = self._sizes.matrices
        if not matrices:
            return 0
        rows, columns = max(matrices, key=math.prod)
        largest, element = rows * columns, 2 if self._layout.is_gpu else FLOAT
        work = element * (2 * largest + 2 * min(rows, columns) ** 2) + FLOAT * largest
        if self._zero.stage == 0 or self._ranks == 1:
            return work
        share = min(sum(map(math.prod, matrices)) // self._ranks, max(self._zero.gather_bucket, largest))
        return work + FLOAT * largest + 2 * FLOAT * (share if self._zero.stage == 3 else largest)
