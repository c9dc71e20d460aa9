"""Linear layers and embeddings that leave their memory as it comes: `initialise_weights` sets every value once."""

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's own initialisation would be thrown away, and takes minutes for billions of weights."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Do nothing, as in `Linear`."""
