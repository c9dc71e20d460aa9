"""From what a user calls `source` to a checkpoint: a run's newest whole one, or the one named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.progress import say
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import MANIFEST, TOKENIZER, list_checkpoints, verify_checkpoint
from train.checkpoint.load import load_transformer, read_model_description, read_trainer_state
from train.model.transformer import Transformer


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference, with the tokenizer it was trained with.

    Args:
        folder: of the checkpoint.
        run: folder of its run, if it lies in one.
        sequence_length: T it was trained with.
        step: at which it was saved.
    """

    model: Transformer
    tokenizer: Tokenizer
    folder: Path
    run: Path | None
    sequence_length: int
    step: int

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device


def locate_checkpoint(source: Path, key: str = "source") -> Path:
    """Return the checkpoint that a path means: itself, or the newest whole one of a run.

    Args:
        key: of the setting that names it, for messages.

    Raises:
        UserError: neither a checkpoint nor a run with a whole one.
    """
    if not source.is_dir():
        raise UserError(f"{key}={source}: there is no such folder")
    if (source / MANIFEST).exists() and (source / "trainer.json").exists():
        return source
    for checkpoint in reversed(list_checkpoints(source / "checkpoints")):
        if not (problems := verify_checkpoint(checkpoint)):
            return checkpoint
        say(escape(f"checkpoint {checkpoint.name} is not used: {'; '.join(problems)}"))
    raise UserError(f"{key}={source} is neither a checkpoint nor a run's folder with a whole checkpoint")


def load_source(source: Path) -> Loaded:
    """Load the model that a path means, on the first GPU if there is one.

    Raises:
        UserError: the path means no checkpoint.
        Failure: the checkpoint is damaged.
    """
    folder = locate_checkpoint(source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_transformer(folder, device)
    run = folder.parent.parent if (folder.parent.parent / "config.yaml").exists() else None
    return Loaded(
        model=model,
        tokenizer=load_tokenizer(folder / TOKENIZER),
        folder=folder,
        run=run,
        sequence_length=read_model_description(folder)["sequence_length"],
        step=read_trainer_state(folder).step,
    )
