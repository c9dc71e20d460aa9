"""The file of a part's signatures: what is needed of its texts to find duplicates, some 270 bytes a document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data_pipeline.deduplication.exact import ExactDuplicatesConfig, text_keys
from data_pipeline.deduplication.minhash import NearDuplicatesConfig, sign, signature_version
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import whole_file

FORMAT = "headrace-signatures-1"
SMALLEST_MEMORY_MB = 16


@dataclass
class DuplicatesConfig:
    """Settings for duplicates of both kinds.

    Args:
        memory_mb: what a process may use for its arrays, roughly, with the interpreter's own 60 MB on top. Has no
            influence on the result.
    """

    exact: ExactDuplicatesConfig = field(default_factory=ExactDuplicatesConfig)
    near: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    memory_mb: int = 256

    def check(self) -> None:
        """Refuse settings that can't be used. Raises UserError."""
        self.near.check()
        if self.memory_mb < SMALLEST_MEMORY_MB:
            raise UserError(f"cleaning.duplicates.memory_mb={self.memory_mb} must be at least {SMALLEST_MEMORY_MB}")


def write_signatures(path: Path, texts: Sequence[str], config: DuplicatesConfig) -> None:
    """Write the signatures of a part's texts, in their order, to a file that appears when it is whole.

    Raises:
        UserError: an unusable setting.
    """
    config.check()
    tensors: dict[str, NDArray] = {}
    if config.exact.enabled:
        tensors["text_keys"] = text_keys(texts)
    if config.near.enabled:
        tensors["signatures"], tensors["shingles"] = sign(texts, config.near)
    save_signatures(path, tensors, len(texts), config)


def save_signatures(path: Path, tensors: dict[str, NDArray], documents: int, config: DuplicatesConfig) -> None:
    """Write signatures as a safetensors file.

    Args:
        tensors: `text_keys` (documents, 16) uint8, `signatures` (documents, permutations) uint8 and `shingles`
            (documents,) uint32, their number, as far as the configuration asks for them.
    """
    from safetensors.numpy import save

    # One entry, since safetensors writes several in an order of chance.
    metadata = {FORMAT: json.dumps({"documents": documents, "settings": _settings(config)})}
    with whole_file(path) as file:
        file.write(save(tensors, metadata))


def count_documents(path: Path, config: DuplicatesConfig) -> int:
    """Return the number of documents in a file of signatures.

    Raises:
        Failure: the file is damaged, or its signatures were made with other settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
    except (OSError, SafetensorError) as error:
        raise Failure(f"{path} can't be read as signatures: {error}; remove it, to have it made again") from None
    if header.get("settings") != _settings(config):
        raise Failure(f"{path} holds signatures made with other settings; remove it, to have it made again")
    return int(header["documents"])


def read_signatures(path: Path, name: str) -> NDArray:
    """Return one tensor of a file of signatures."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.get_tensor(name)


def _settings(config: DuplicatesConfig) -> list[Any]:
    """Return what signatures depend on, as it comes back from JSON."""
    near = [config.near.permutations, config.near.ngram, signature_version()] if config.near.enabled else None
    return [config.exact.enabled, near]
