"""Linear layers and embeddings that leave their memory as it comes: `initialise_weights` sets every value once."""

from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer, with an adapter beside it where one is attached."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, bias=bias)
        self.adapter: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return output if self.adapter is None else output + self.adapter(x)

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's own initialisation would be thrown away, and takes minutes for billions of weights."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Do nothing, as in `Linear`."""
