"""How a step is laid out over ranks and micro-batches: all that its memory and its speed depend on beside the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.deepspeed_settings import ZeroConfig
from train.model.recomputation import BLOCKS
from train.precision import DTYPES

BYTES = {kind: dtype.itemsize for kind, dtype in DTYPES.items()}
"""Of a weight, an activation or a gradient, by precision."""


@dataclass(frozen=True)
class Layout:
    """One way to run a step.

    Args:
        ranks: over which ZeRO partitions.
        micro: sequences of one forward pass on one rank.
        length: tokens of a sequence.
        accumulation: micro-batches of a step.
        sequence_ranks: ranks that share each sequence.
        tensor_ranks: ranks that split each block; `ranks` of them hold the same part.
        is_gpu: kernels and collectives of a GPU; else of a CPU with gloo, which work out more in pieces and in copies.
    """

    ranks: int
    micro: int
    length: int
    accumulation: int = 1
    precision: str = "fp32"
    activation_checkpointing: bool = False
    recomputed: str = BLOCKS
    is_gpu: bool = False
    sequence_ranks: int = 1
    tensor_ranks: int = 1
    zero: ZeroConfig = field(default_factory=ZeroConfig)

    @property
    def processes(self) -> int:
        """All ranks."""
        return self.ranks * self.tensor_ranks

    @property
    def tokens(self) -> int:
        """Of one micro-batch on one rank."""
        return self.micro * self.length // self.sequence_ranks

    @property
    def element(self) -> int:
        """Bytes of an element of weights, activations and gradients."""
        return BYTES[self.precision]
