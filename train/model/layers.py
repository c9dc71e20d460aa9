"""Linear layers and embeddings that leave their memory as it comes: `initialise_weights` sets every value once."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """A linear layer, with an adapter beside it where one is attached, and seen otherwise where it has a view."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, bias=bias)
        self.adapter: nn.Module | None = None
        self.view: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x) if self.view is None else linear(x, self.view(self.weight), self.bias)
        return output if self.adapter is None else output + self.adapter(x)

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's own initialisation would be thrown away, and takes minutes for billions of weights."""


class Embedding(nn.Embedding):
    """An embedding, whose rows are seen otherwise where it has a view."""

    view: Callable[[Tensor], Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens)
        return rows if self.view is None else self.view(rows.flatten(0, -2)).view_as(rows)

    def reset_parameters(self) -> None:
        """Do nothing, as in `Linear`."""
