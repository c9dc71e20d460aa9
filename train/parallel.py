"""How ranks share the work beyond reading different sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data_pipeline.foundation.errors import UserError
from train.model.transformer import TransformerConfig


@dataclass
class ParallelConfig:
    """How ranks share the work.

    Args:
        sequence: neighbouring ranks that share each sequence, for contexts whose activations are too much for one. They
            exchange heads for tokens around attention; all ranks together partition the state, as ZeRO has it.
    """

    sequence: int = 1


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
    if config.sequence < 1:
        raise UserError(f"parallel.sequence={config.sequence} must be at least 1")
    if config.sequence == 1:
        return
    if ranks % config.sequence:
        raise UserError(
            f"parallel.sequence={config.sequence} does not divide the {ranks} ranks of this run: start a multiple of "
            "it, or share sequences among fewer"
        )
    if objective in WHOLE_SEQUENCES:
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
