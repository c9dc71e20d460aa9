"""The checkpoint folder: what is in it, which ones are whole, and which is the newest.

A folder is a checkpoint only with a manifest, which is written last and names every file with its bytes and xxh3-128;
its own content has a checksum too, so that no flipped bit anywhere goes unseen.
The folder is staged beside its place and renamed when all is on disk. What is newest is found by looking.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import file_hash, json_hash, publish_folder, write_json

FORMAT_VERSION = 1
MANIFEST, TRAINER, MODEL, TOKENIZER = "manifest.json", "trainer.json", "model.json", "tokenizer"


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint is made of.

    Args:
        files: per file, relative to the folder: bytes and xxh3-128.
        world_size: ranks that wrote it; any number can read it.
        zero_stage: it was written at; any stage can read it.
    """

    format_version: int
    step: int
    world_size: int
    zero_stage: int
    dataset_fingerprint: str
    configuration_fingerprint: str
    files: dict[str, dict[str, Any]]


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the published checkpoints of a run, oldest first, without looking inside."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def load_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Read a checkpoint's manifest.

    Raises:
        Failure: there is none, it is damaged, or a newer version of Headrace wrote it.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise Failure(f"{folder} has checkpoint format {version}; this version of Headrace reads {FORMAT_VERSION}")
        checksum = content.pop("xxh3_128")
        if checksum != json_hash(content):
            raise ValueError("its content is not what its own checksum says")
        manifest = CheckpointManifest(**content)
        for name in manifest.files:
            if not re.fullmatch(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", name, re.ASCII):
                raise ValueError(f"it names {name!r}, which can't be a file of a checkpoint")
        return manifest
    except FileNotFoundError:
        raise Failure(f"{folder} is not a whole checkpoint: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path} is damaged: {error}") from None


def verify_checkpoint(folder: Path, part: int = 0, parts: int = 1) -> list[str]:
    """Return what is wrong with a checkpoint, each line naming a file; nothing if every byte is as written.

    Args:
        folder: of the checkpoint.
        part: look at every `parts`-th file from this one on, so that ranks can share the reading.
    """
    try:
        manifest = load_checkpoint_manifest(folder)
    except Failure as error:
        return [str(error)]
    problems = []
    for name, expected in sorted(manifest.files.items())[part::parts]:
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {expected['bytes']}")
        elif file_hash(path) != expected["xxh3_128"]:
            problems.append(f"{path} is damaged: its checksum is not the manifest's")
    return problems


def publish_checkpoint(staged: Path, final: Path, manifest: CheckpointManifest) -> None:
    """Write the manifest and rename the staged folder into place. One rank does it, after all have written theirs."""
    content = asdict(manifest)
    write_json(staged / MANIFEST, {**content, "xxh3_128": json_hash(content)})
    if final.exists():
        # A checkpoint of this step that did not verify, or this run would not be here again.
        remove_checkpoint(final)
    publish_folder(staged, final)


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; it stops being one with the rename, before its first file is gone."""
    doomed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def keep_newest(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints (0 keeps all) and what broken saves left; return the removed."""
    for debris in (*folder.glob("step-*.tmp"), *folder.glob("step-*.removed")):
        shutil.rmtree(debris)
    doomed = list_checkpoints(folder)[:-keep] if keep else []
    for checkpoint in doomed:
        remove_checkpoint(checkpoint)
    return doomed
