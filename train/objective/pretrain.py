"""Next-token prediction on running text."""

from __future__ import annotations

from torch import Tensor, nn

from data_pipeline.loader import Batch


class Pretrain:
    """Every token of a sequence is predicted from those before it.

    Args:
        z_loss: weight of the squared log-partition.
        document_mask: attention stays within a document.
    """

    is_likelihood = True

    def __init__(self, z_loss: float, document_mask: bool):
        self.z_loss, self.document_mask = z_loss, document_mask

    def summed_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        ends = batch.document_ends if self.document_mask else None
        return model(batch.tokens, batch.targets, document_ends=ends, z_loss=self.z_loss)

    def held_out(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.summed_loss(model, batch)}

    def target_count(self, batch: Batch) -> int:
        return batch.counted_targets
