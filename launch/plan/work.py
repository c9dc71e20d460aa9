"""What a token costs a device: operations in matrix products and in attention, and elements moved in between.

Per token of a forward pass. Letters as in the model: D width, Q and K width of all query and key heads, H of the
feed-forward layer, V vocabulary, T tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.memory.sizes import parameter_sizes
from train.model.transformer import TransformerConfig
from train.muon import ITERATIONS
from train.optimizer import OptimizerConfig

LOSS_BYTES = 48
"""Read and written per logit by the chunked cross-entropy: product, float32, log-partition, exponential, gradient."""


@dataclass(frozen=True)
class Work:
    """Per token.

    Args:
        parameters: of the model, tied ones once.
        active_parameters: that a token meets.
        matrix_flops: of a forward pass, attention's own products left out.
        head_flops: the part of `matrix_flops` behind the blocks, which checkpointing doesn't recompute.
        attention_flops: of a forward pass over the causal half.
        moved: elements that kernels between the products read and write in a forward pass of the blocks.
        loss_bytes: that the loss reads and writes, its gradient with it.
        boundaries: elements between blocks.
        exchanged: elements that a forward pass sends around attention where ranks share sequences.
        sums: over ranks, in a forward pass where these split blocks, and as many in a backward pass.
        summed: elements in them.
        orthogonal: elements of matrices whose updates are made orthogonal, of the whole model.
        orthogonal_flops: that this takes at an update, of the whole model.
    """

    parameters: int
    active_parameters: int
    matrix_flops: float
    head_flops: float
    attention_flops: float
    moved: float
    loss_bytes: float
    boundaries: int = 0
    exchanged: int = 0
    sums: int = 0
    summed: int = 0
    orthogonal: int = 0
    orthogonal_flops: float = 0.0

    @property
    def model_flops(self) -> float:
        """Forward and backward pass, nothing recomputed: what MFU counts (Chowdhery et al. 2022, appendix B)."""
        return 3.0 * (self.matrix_flops + self.attention_flops)


def work_of(
    model: TransformerConfig, length: int, optimizer: OptimizerConfig | None = None, tensor_ranks: int = 1
) -> Work:
    """Return the work of our model's code, read from it kernel by kernel, or of one of the ranks that split its blocks.

    Two norms read and write D each, two sums 3·D; a rotation is five kernels over Q + K; silu and the product of gate
    and up read and write 5·H; attention reads and writes Q and K twice. Each active expert does as much, and its rows
    are laid out, weighted and added up, 8·D. Newton–Schulz's iteration is a matrix's product with itself, that with
    itself, and that with the matrix. Norms, routers, head and loss aren't split.
    """
    assert model.vocabulary_size is not None
    head = 2.0 * model.vocabulary_size * model.width
    queries, keys = model.heads * model.width_of_head, model.key_value_heads * model.width_of_head
    attention = 2.0 * queries * length
    flops = model.flops_per_token(length) / 3.0
    hidden, rows = model.hidden_width, 0
    if model.experts:
        hidden = model.active_experts * model.hidden_width + model.shared_width
        rows = 8 * model.active_experts * model.width
    per_block = 10 * model.width + 6 * model.experts + (12 * (queries + keys) + 5 * hidden + rows) / tensor_ranks
    sizes = parameter_sizes(model, optimizer, tensor_ranks=tensor_ranks)
    whole = head + 2.0 * model.layers * model.width * model.experts
    shapes = [sorted(shape) for shape in sizes.matrices]
    return Work(
        parameters=sizes.total,
        active_parameters=sizes.total - model.idle_parameters // tensor_ranks,
        orthogonal=sum(short * long for short, long in shapes),
        orthogonal_flops=ITERATIONS * sum(4.0 * short**2 * long + 2.0 * short**3 for short, long in shapes),
        matrix_flops=whole + (flops - model.layers * attention - whole) / tensor_ranks,
        head_flops=head,
        attention_flops=model.layers * attention / tensor_ranks,
        moved=model.layers * per_block,
        loss_bytes=LOSS_BYTES * model.vocabulary_size,
        boundaries=model.layers * model.width,
        exchanged=model.layers * 2 * (queries + keys),
        sums=2 * model.layers,
        summed=2 * model.layers * model.width,
    )
