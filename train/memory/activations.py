"""What the forward pass keeps for the backward pass, tensor by tensor, in the order of the model's own code.

Letters as in the model: D width, Q and K width of all query and key heads, H of the feed-forward layer, V vocabulary,
E experts, C of them active. All sizes are bytes of one rank and one micro-batch; where ranks split blocks, one has an
equal part of heads, hidden channels and experts' rows, however they were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.memory.layout import Layout
from train.model.cross_entropy import rows_at_once
from train.model.recomputation import CHEAP, HOST
from train.model.transformer import TransformerConfig

FLOAT, INTEGER = 4, 8


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch.

    Args:
        block: kept by one block that isn't recomputed.
        boundary: kept by a block that is recomputed: its input, and with `recomputed=cheap` what products give.
        passing: held besides while a block's backward pass is at its widest place.
        kept: by all blocks until the backward pass begins.
        head: kept behind the last block: the last norm's, and the gradient that the loss has made for it.
        loss: while the loss is worked out, chunk by chunk, its part of the gradient with it.
        scaling: the head's gradient, which the loss has made, and which is multiplied by what comes from behind.
        on_host: of what all blocks keep, what waits in host memory.
    """

    block: int
    boundary: int
    passing: int
    kept: int
    head: int
    loss: int
    scaling: int
    on_host: int = 0


def activations(model: TransformerConfig, layout: Layout) -> Activations:
    """Return what a micro-batch of a resolved model keeps.

    A norm keeps its input, or in float32 on CPUs what its weight multiplies, and its output, which the next products
    take; in 16 bits on CPUs, where it is put together of smaller kernels, input and product in float32. Attention keeps
    rotated queries and keys, values, its output and a float per query and head (Dao 2023, FlashAttention-2). The
    feed-forward layer keeps gate, silu(gate), up and their product. Of logits there are never more than a chunk's.
    """
    assert model.vocabulary_size is not None
    element, tokens = layout.element, layout.tokens
    width, parts = model.width, layout.tensor_ranks
    heads, key_heads = model.heads // parts, model.key_value_heads // parts
    queries, keys = heads * model.width_of_head, key_heads * model.width_of_head
    hidden = model.hidden_width // (1 if model.experts else parts)
    norm = _norm(width, layout)
    attention = element * (2 * queries + 2 * keys) + FLOAT * heads
    if layout.sequence_ranks > 1:
        attention += element * queries  # attention's output, once by heads and once by tokens
    if model.query_key_norm:
        on_cpu = (queries + keys + heads + key_heads) * FLOAT  # what is rotated isn't kept
        in_float32 = not layout.is_gpu and element == FLOAT
        attention += on_cpu if in_float32 else _norm(queries, layout) + _norm(keys, layout)
    feed_forward = _experts(model, layout) if model.experts else element * 4 * hidden
    block = tokens * (2 * norm + attention + feed_forward)
    boundary = tokens * element * width
    if layout.recomputed == CHEAP and layout.activation_checkpointing:
        # Query, key, value, attention's result and its projection; gate, up and down.
        products = element * (2 * queries + 2 * keys + 2 * width + 2 * hidden) + FLOAT * heads
        boundary += tokens * products
    # The widest place is behind the product gate · up, where the gradients of three hidden tensors meet.
    copies = model.active_experts / parts if model.experts else 1
    passing = int(tokens * element * copies * (2 * hidden + 2 * width))
    kept = model.layers * (boundary if layout.activation_checkpointing else block)
    # On a CPU host memory is where they are anyway; on a GPU the one that is copied and the one before are still there.
    waits = layout.recomputed == HOST and layout.activation_checkpointing and layout.is_gpu
    on_device = min(kept, 2 * boundary) if waits else kept
    again = (block - boundary + tokens * element * width) if layout.activation_checkpointing else 0
    matrix = model.vocabulary_size * width
    return Activations(
        block=block,
        boundary=boundary,
        passing=passing + again,
        kept=on_device,
        head=tokens * (norm + element * width),
        loss=FLOAT * matrix + _chunk(model.vocabulary_size, matrix, layout),
        scaling=element * matrix,
        on_host=kept if waits else 0,
    )


def _experts(model: TransformerConfig, layout: Layout) -> int:
    """Return the bytes a token keeps in a mixture of experts.

    The router keeps its scores, their probabilities twice, and its input in float32: where that isn't the norm's own
    output, nobody keeps the latter but an expert for all tokens. What was chosen is kept as weights, order and place.
    Each expert's row keeps its input, what a feed-forward layer does, and its output.
    """
    chosen, width = model.active_experts, model.width
    router = FLOAT * 3 * model.experts
    if layout.element != FLOAT:
        router += FLOAT * width - (0 if model.shared_width else layout.element * width)
    rows = chosen * (layout.element * (4 * model.hidden_width + 2 * width) // layout.tensor_ranks)
    choices = chosen * (3 * INTEGER + 3 * FLOAT)
    return router + rows + choices + layout.element * 4 * model.shared_width // layout.tensor_ranks


def _norm(width: int, layout: Layout) -> int:
    """Return the bytes a token keeps in a norm: input, output, and where kernels aren't fused, what is in between."""
    if layout.is_gpu or layout.element == FLOAT:
        return 2 * width * layout.element + FLOAT
    return 2 * FLOAT * width + width * layout.element + FLOAT


def _chunk(vocabulary: int, matrix: int, layout: Layout) -> int:
    """Return the bytes that the loss of a chunk takes: its logits, their exponentials, and the chunk's before.

    In 16 bits the head's gradient of a chunk is a matrix of its own before it is added to the sum in float32, which a
    CPU turns into float32 first.
    """
    rows = min(layout.tokens, rows_at_once(vocabulary))
    logits = FLOAT * rows * vocabulary
    chunks, last = -(-layout.tokens // rows), FLOAT * vocabulary * ((layout.tokens - 1) % rows + 1)
    widest = 3 * logits if chunks > 2 else max(2 * logits, logits + 2 * last if chunks == 2 else 0)
    if layout.element == FLOAT:
        return widest if layout.is_gpu else logits  # a CPU does all in the memory of one chunk
    product = matrix * (layout.element + (0 if layout.is_gpu else FLOAT))
    return max(widest, product + logits + layout.element * rows * vocabulary)
