"""From what a user calls `source` to a model: a run's newest whole checkpoint, the one named, or an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.progress import say
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import MANIFEST, TOKENIZER, list_checkpoints, verify_checkpoint
from train.checkpoint.load import load_for_inference, read_model_description, read_trainer_state
from train.model.transformer import Transformer


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference, with the tokenizer it was trained with.

    Args:
        folder: of the checkpoint, or what an exported model is.
        run: folder of its run, if it lies in one.
        sequence_length: T it was trained with; of a model from elsewhere, what is scored at once.
        step: at which it was saved; 0 of a model that others trained.
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
    if (source / "config.json").is_file():
        raise UserError(f"{key}={source} is a Hugging Face folder: make a checkpoint of it by `headrace import`")
    raise UserError(f"{key}={source} is neither a checkpoint nor a run's folder with a whole checkpoint")


def load_source(source: Path, average: bool = False) -> Loaded:
    """Load the model that a path means, on the first GPU if there is one.

    Args:
        source: a run, a checkpoint, or an exported model: a Hugging Face folder or a GGUF file of the Llama family,
            which is taken as it stands, with no comparison but that of the checksums of an export of ours.
        average: of the weights over training, which some checkpoints hold, instead of the last ones.

    Raises:
        UserError: the path means none of them, a model that ours can't be, or one without an average.
        Failure: what it means is damaged.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (source / "config.json").is_file() or source.suffix == ".gguf":
        if average:
            raise UserError(f"average=true: source={source} is an export, which holds one set of weights")
        return _load_exported(source, device)
    if source.is_file():
        raise UserError(f"source={source} is neither a run, a checkpoint, a Hugging Face folder nor a .gguf file")
    folder = locate_checkpoint(source)
    run = folder.parent.parent if (folder.parent.parent / "config.yaml").exists() else None
    return Loaded(
        model=load_for_inference(folder, device, average),
        tokenizer=load_tokenizer(folder / TOKENIZER),
        folder=folder,
        run=run,
        sequence_length=read_model_description(folder)["sequence_length"],
        step=read_trainer_state(folder).step,
    )


def _load_exported(source: Path, device: torch.device) -> Loaded:
    # Here, for what exchanges models finds their checkpoints by this module.
    from train.exchange.intake import open_incoming
    from train.exchange.new_checkpoint import WINDOW
    from train.exchange.record import RECORD, verify_export

    if (source / RECORD).exists() and (problems := verify_export(source)):
        raise Failure(f"export {source} is damaged: {'; '.join(problems)}")
    incoming = open_incoming(source, None)
    with device:
        model = Transformer(incoming.config)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(incoming.read(name))
    lineage = incoming.origin["lineage"] or {}
    return Loaded(
        model=model.eval(),
        tokenizer=incoming.tokenizer,
        folder=source,
        run=None,
        sequence_length=min(WINDOW, incoming.config.maximum_length),
        step=lineage.get("step", 0),
    )
