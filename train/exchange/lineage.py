"""Where a model came from, as an export carries it, and what was measured of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import file_hash
from train.checkpoint.folder import MANIFEST, load_checkpoint_manifest
from train.checkpoint.load import read_trainer_state

OF_RUN = ("tokens", "validation_loss", "perplexity", "bits_per_byte")
OF_EVALUATION = ("text", "text_xxh3_128", "tokens", "bytes", "loss", "perplexity", "bits_per_byte")


def lineage_of(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint knows of its origin: hashes of it, its data and its settings, and its parents'."""
    manifest, state = load_checkpoint_manifest(checkpoint), read_trainer_state(checkpoint)
    return {
        "checkpoint": checkpoint.name,
        "manifest": file_hash(checkpoint / MANIFEST),
        "step": state.step,
        "tokens": state.tokens,
        "dataset_fingerprint": manifest.dataset_fingerprint,
        "configuration_fingerprint": manifest.configuration_fingerprint,
        "of": state.lineage,
    }


def measured_in(run: Path | None, step: int, average: bool = False) -> dict[str, dict[str, Any]]:
    """Return the figures that a run's folder holds of its step, by where they are from; none of another step's.

    Args:
        average: those of the average of its weights, which has other ones.
    """
    figures = {}
    for name, key, wanted in (("summary.json", "steps", OF_RUN), ("evaluation.json", "step", OF_EVALUATION)):
        found = _json(run / name) if run is not None else {}
        if found.get(key) == step and found.get("average", False) == average:
            figures[name] = {key: found[key] for key in wanted if found.get(key) is not None}
    return figures


def measured_of_compressed(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint that was compressed was measured at before and after; of others nothing."""
    from train.compress.record import RECORD, figures_of

    if RECORD not in load_checkpoint_manifest(checkpoint).files:
        return {}
    return {RECORD: figures_of(_json(checkpoint / RECORD))}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
