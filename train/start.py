"""Where a new run begins: with another run's model and weights, to be tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import MANIFEST, TOKENIZER, list_checkpoints
from train.checkpoint.load import read_model_description, read_trainer_state
from train.model.transformer import TransformerConfig
from train.run_folder import RunFolder
from train.source import locate_checkpoint

FREE_KEYS = ("model.document_mask", "model.maximum_length")
"""Of a model's shape, what its weights don't depend on."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to begin with.

    Args:
        model: its shape.
        lineage: which checkpoint, by the hash of its manifest, and where it came from itself.
        pruning: how it was pruned, if it was: its zeros then stay.
    """

    checkpoint: Path
    model: TransformerConfig
    lineage: dict[str, Any]
    pruning: dict[str, Any] | None = None


def find_start(
    config: TransformerConfig,
    source: str | None,
    run: RunFolder,
    tokenizer: Tokenizer,
    data: str,
    overrides: Sequence[str],
) -> Start | None:
    """Find the checkpoint that `start_from` means, if it is given.

    Args:
        config: the model of the settings, of which the checkpoint leaves little.
        source: the setting.
        run: the new run, which once it has checkpoints goes on without the one it began with.
        tokenizer: of the data.
        data: its name, for messages.
        overrides: as typed: which model it is says the checkpoint alone.

    Raises:
        UserError: there is none, it reads other tokens than the data has, or another model is asked for as well.
        Failure: it is damaged.
    """
    if source is None:
        return None
    is_gone = not Path(source).is_dir() and bool(list_checkpoints(run.checkpoints))
    checkpoint = locate_checkpoint(run.path if is_gone else Path(source), "start_from")
    description = read_model_description(checkpoint)
    shape = dict(description["model"])
    if load_tokenizer(checkpoint / TOKENIZER).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"start_from={source} was trained with another tokenizer than {data}: prepare that with tokenizer=file "
            f"tokenizer.path={checkpoint / TOKENIZER}"
        )
    shape["document_mask"] = None
    for override in overrides:
        key, _, _ = override.lstrip("+").partition("=")
        if key in FREE_KEYS:
            shape[key.removeprefix("model.")] = getattr(config, key.removeprefix("model."))
        elif key == "model" or key.startswith("model."):
            raise UserError(f"{override}: the model is that of start_from={source}; leave it out")
    origin = read_trainer_state(checkpoint).lineage["start"] if is_gone else origin_of(checkpoint)
    return Start(checkpoint, TransformerConfig(**shape), origin, description.get("pruning"))


def origin_of(checkpoint: Path) -> dict[str, Any]:
    """Return, for a lineage, which checkpoint it is, by the hash of its manifest, and where it came from itself."""
    lineage = read_trainer_state(checkpoint).lineage
    return {"checkpoint": checkpoint.name, "manifest": file_hash(checkpoint / MANIFEST), "of": lineage}
