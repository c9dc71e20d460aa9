"""A student learns what its teacher says of every next token, beside what the text says."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from data_pipeline.loader import Batch
from train.model.divergence import Mixture, Taught, hidden_states, linear_distillation
from train.model.transformer import Transformer


class Distillation:
    """The divergence of the student's distributions from the teacher's, mixed with the text's cross-entropy.

    What is measured on held-out text is the cross-entropy alone, so that a run compares with one without a teacher.

    Args:
        teacher: frozen, held whole by every rank.
        document_mask: attention stays within a document, in both.
    """

    is_likelihood = True

    def __init__(self, mixture: Mixture, teacher: Transformer, document_mask: bool):
        self.mixture, self.teacher, self.document_mask = mixture, teacher, document_mask

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        ends = batch.document_ends if self.document_mask else None
        with torch.no_grad():
            hidden = hidden_states(self.teacher, tokens_BT=batch.tokens, document_ends=ends)
        taught = Taught(hidden, self.teacher.head.weight.detach())
        output = partial(linear_distillation, targets_N=batch.targets.flatten(), taught=taught, mixture=self.mixture)
        return model(batch.tokens, batch.targets, document_ends=ends, output=output)

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ends = batch.document_ends if self.document_mask else None
        return {"loss": model(batch.tokens, batch.targets, document_ends=ends)}

    def target_count(self, batch: Batch) -> int:
        return batch.counted_targets
