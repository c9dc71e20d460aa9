"""The checkpoint that is exported: verified, and read one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.foundation.errors import Failure
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import TOKENIZER, verify_checkpoint
from train.checkpoint.load import read_model_description, read_trainer_state
from train.exchange.architectures import shapes_of
from train.exchange.lineage import lineage_of, measured_in, measured_of_compressed
from train.exchange.weights import CheckpointWeights
from train.model.transformer import TransformerConfig
from train.source import locate_checkpoint


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        name: for people.
        shapes: of its parameters, by name.
        lineage: where it came from.
        measured: its figures, by the file that they are from.
    """

    name: str
    config: TransformerConfig
    tokenizer: Tokenizer
    weights: CheckpointWeights
    lineage: dict[str, Any]
    measured: dict[str, dict[str, Any]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.weights.shapes

    def read(self, name: str) -> Tensor:
        """Return one parameter, float32."""
        return self.weights.read(name)


def open_source(path: Path, average: bool = False) -> Source:
    """Open a checkpoint, or a run's newest whole one.

    Args:
        average: of the weights over training, instead of the last ones.

    Raises:
        UserError: the path means no checkpoint, or one without an average.
        Failure: the checkpoint is damaged.
    """
    folder = locate_checkpoint(path)
    if problems := verify_checkpoint(folder):
        raise Failure(f"checkpoint {folder} is damaged: {'; '.join(problems)}")
    config = TransformerConfig(**read_model_description(folder)["model"])
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.vocabulary_size > (config.vocabulary_size or 0):
        raise Failure(
            f"checkpoint {folder} has a tokenizer of {tokenizer.vocabulary_size:,} tokens, its model has "
            f"{config.vocabulary_size:,}: it is another model's"
        )
    run = folder.resolve().parent.parent
    run_or_none = run if (run / "config.yaml").exists() else None
    return Source(
        name=run.name if run_or_none else config.name,
        config=config,
        tokenizer=tokenizer,
        weights=CheckpointWeights(folder, shapes_of(config), average),
        lineage=lineage_of(folder) | ({"average": True} if average else {}),
        measured=measured_in(run_or_none, read_trainer_state(folder).step, average) | measured_of_compressed(folder),
    )
