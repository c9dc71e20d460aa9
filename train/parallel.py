"""How ranks share the work beyond reading different sequences and partitioning its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_pipeline.foundation.errors import UserError
from train.model.transformer import TransformerConfig


@dataclass
class ParallelConfig:
    """How ranks share the work.

    Args:
        sequence: neighbouring ranks that share each sequence, for contexts whose activations are too much for one. They
            exchange heads for tokens around attention; all ranks together partition the state, as ZeRO has it.
        tensor: neighbouring ranks that split each block's matrices, and experts, for models that are too much for one.
            They read the same sequences; ZeRO partitions over the ranks that hold the same part.
    """

    sequence: int = 1
    tensor: int = 1

    @property
    def together(self) -> int:
        """Ranks that read the same sequences. Only one of the two ways is taken."""
        return max(self.sequence, self.tensor)

    @property
    def described(self) -> str | None:
        """What those ranks are to each other, in words."""
        if self.sequence > 1:
            return f"{self.sequence} processes that share its sequences"
        return f"{self.tensor} processes that split each block" if self.tensor > 1 else None


WHOLE_SEQUENCES = {
    "dpo": "compares whole answers",
    "grpo": "writes whole answers",
}
"""Objectives that parts of sequences don't do for, each with the reason."""


def check_parallel(config: ParallelConfig, ranks: int, objective: str) -> None:
    """Refuse what can't be shared, whatever the model.

    Raises:
        UserError: names the setting, the reason and the mend.
    """
    for key, means in (("sequence", "share sequences among"), ("tensor", "split blocks between")):
        size = getattr(config, key)
        if size < 1:
            raise UserError(f"parallel.{key}={size} must be at least 1")
        if ranks % size:
            raise UserError(
                f"parallel.{key}={size} does not divide the {ranks} ranks of this run: start a multiple of it, or "
                f"{means} fewer"
            )
    if config.sequence > 1 and config.tensor > 1:
        raise UserError(
            f"parallel.tensor={config.tensor} with parallel.sequence={config.sequence}: both give a rank a part of the "
            "heads, and weren't made to work together; for long contexts keep sequence, for large models tensor"
        )
    if config.tensor > 1 and objective == "grpo":
        raise UserError(
            f"parallel.tensor={config.tensor} with objective=grpo, for which each rank writes answers by itself, where "
            "ranks that split a model must read the same ones: leave parallel.tensor out"
        )
    if config.sequence > 1 and objective in WHOLE_SEQUENCES:
        raise UserError(
            f"parallel.sequence={config.sequence} with objective={objective}, which {WHOLE_SEQUENCES[objective]}: "
            "leave parallel.sequence out"
        )


def check_shares(config: ParallelConfig, model: TransformerConfig, lengths: Iterable[int], role: str = "model") -> None:
    """Refuse heads and sequences that don't divide.

    Args:
        model: resolved.
        lengths: of all sequences of a run.
        role: of the model: the run's own, or a teacher.

    Raises:
        UserError: names the setting and what would divide.
    """
    ranks = config.sequence
    for key in ("heads", "key_value_heads"):
        if getattr(model, key) % ranks:
            raise UserError(
                f"parallel.sequence={ranks} does not divide {role}.{key}={getattr(model, key)}: each rank attends with "
                "an equal part of the heads"
            )
    for length in lengths:
        if length % ranks:
            raise UserError(
                f"parallel.sequence={ranks} does not divide sequences of {length} tokens: each rank has an equal part"
            )


def check_split(config: ParallelConfig, model: TransformerConfig, whole_matrices: Mapping[str, str]) -> None:
    """Refuse a model that doesn't divide, and what doesn't work on parts of matrices.

    Args:
        model: resolved.
        whole_matrices: settings as typed that need them, each with what for.

    Raises:
        UserError: names the setting, the reason and what would do.
    """
    ranks = config.tensor
    if ranks == 1:
        return
    hidden = ("experts", "shared_width") if model.experts else ("hidden_width",)
    for key in ("heads", "key_value_heads", *hidden):
        if getattr(model, key) % ranks:
            raise UserError(
                f"parallel.tensor={ranks} does not divide model.{key}={getattr(model, key)}: each rank has an equal "
                "part of each block"
            )
    for setting, reason in whole_matrices.items():
        raise UserError(
            f"parallel.tensor={ranks} with {setting}, which {reason}, where a rank has parts: leave one of them out; "
            "zero=3 has room for large models, too"
        )
