"""The model that an objective holds the trained one to, a reference or a teacher: found, fitting, always the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import TOKENIZER, list_checkpoints
from train.checkpoint.load import read_model_description, read_trainer_state
from train.model.transformer import TransformerConfig
from train.objective import frozen_role
from train.run_folder import RunFolder
from train.settings import TrainConfig, plan_run
from train.source import locate_checkpoint
from train.start import origin_of


@dataclass(frozen=True)
class Frozen:
    """A checkpoint whose weights don't change while the run learns from them.

    Args:
        role: `reference` or `teacher`.
        setting: as typed.
        model: its shape.
        lineage: which checkpoint, by the hash of its manifest, and where it came from itself.
    """

    role: str
    setting: str
    checkpoint: Path
    model: TransformerConfig
    lineage: dict[str, Any]

    def require_same(self, lineage: dict[str, Any]) -> None:
        """Refuse another checkpoint than the one that a run has learnt from so far.

        Args:
            lineage: of the run's checkpoint.

        Raises:
            UserError: names both.
        """
        before = lineage[self.role]
        if before["manifest"] != self.lineage["manifest"]:
            raise UserError(
                f"{self.setting}: the run has learnt from {before['checkpoint']} with the manifest "
                f"{before['manifest']} so far, and {self.checkpoint} is another: bring that back, or start a run of "
                "another run.name"
            )


def find_frozen(
    config: TrainConfig, model: TransformerConfig, run: RunFolder, tokenizer: Tokenizer, data: str
) -> Frozen | None:
    """Find the checkpoint of the objective's frozen model, if it has one. A run that goes on keeps to its first one.

    Args:
        model: the resolved model that is trained.
        data: its name, for messages.

    Raises:
        UserError: there is none, it is another than before, or doesn't fit tokens or model.
        Failure: it is damaged.
    """
    role = frozen_role(config.objective)
    if role is None:
        return None
    source, key = getattr(config.objective, role), f"objective.{role}"
    if source is None:
        source, key = config.start_from, "start_from"
    before = _earlier(run, role)
    path = Path(source)
    if before and (path / "checkpoints" / before["checkpoint"]).is_dir():
        path = path / "checkpoints" / before["checkpoint"]  # its run may have gone on since
    checkpoint = locate_checkpoint(path, key)
    if load_tokenizer(checkpoint / TOKENIZER).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"{key}={source} reads other tokens than {data}: prepare that with tokenizer=file "
            f"tokenizer.path={checkpoint / TOKENIZER}"
        )
    shape = read_model_description(checkpoint)["model"]
    if shape["vocabulary_size"] != model.vocabulary_size:
        raise UserError(
            f"{key}={source} has a vocabulary of {shape['vocabulary_size']}, this model one of "
            f"{model.vocabulary_size}: set model.vocabulary_size={shape['vocabulary_size']}"
        )
    longest = max(segment.length for segment in plan_run(config))
    if key != "start_from" and shape["maximum_length"] < longest:
        raise UserError(
            f"{key}={source} knows sequences of at most {shape['maximum_length']} tokens, and data.sequence_length="
            f"{longest} asks for more: shorten them"
        )
    frozen = Frozen(role, f"{key}={source}", checkpoint, TransformerConfig(**shape), origin_of(checkpoint))
    if before:
        frozen.require_same({role: before})
    return frozen


def _earlier(run: RunFolder, role: str) -> dict[str, Any] | None:
    """Return what the newest readable checkpoint of a run says that it has learnt from."""
    for checkpoint in reversed(list_checkpoints(run.checkpoints)):
        try:
            return read_trainer_state(checkpoint).lineage[role]
        except (Failure, KeyError):
            continue
    return None
