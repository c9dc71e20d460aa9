"""Text that shows what a model's layers are given, and the walk through its blocks that learns it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.foundation.progress import Task
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.model.attention import rotary_table
from train.model.layers import Linear
from train.model.transformer import Transformer

ROWS = 8
"""Sequences that go through a block at once."""


@dataclass
class CalibrationConfig:
    """What methods that need text learn from.

    Args:
        data: a dataset folder, of which the training split is read.
        text: a text file instead.
        sequences: read, from the beginning on.
        length: tokens of each.
    """

    data: str | None = None
    text: str | None = None
    sequences: int = 32
    length: int = 512


@dataclass(frozen=True)
class Calibration:
    """Tokens (sequences, length), and what the lineage says of them."""

    tokens: Tensor
    record: dict[str, Any]


def read_calibration(config: CalibrationConfig, tokenizer: Tokenizer, maximum_length: int) -> Calibration:
    """Read the text that a method is to learn from.

    Raises:
        UserError: none or two are given, there is too little of it, or it was made with another tokenizer.
        Failure: the dataset is damaged.
    """
    from data_pipeline.dataset import DataConfig, open_dataset
    from train.evaluate.text import file_text, split_text

    if (config.data is None) == (config.text is None):
        raise UserError(
            "the method learns from text: give calibration.text=FILE or calibration.data=DATASET, one of them"
        )
    if config.sequences < 1 or config.length < 2:
        raise UserError("calibration.sequences must be at least 1, calibration.length at least 2")
    length = min(config.length, maximum_length)
    if config.text is not None:
        text = file_text(Path(config.text), tokenizer)
        origin = {"text": Path(config.text).name, "xxh3_128": file_hash(Path(config.text))}
    else:
        dataset = open_dataset(DataConfig(config.data))
        text = split_text(dataset, "train", tokenizer)
        origin = {"dataset": dataset.manifest.fingerprint, "split": "train"}
    wanted = config.sequences * length
    if len(text.tokens) < wanted:
        raise UserError(
            f"calibration has {len(text.tokens):,} tokens and calibration.sequences={config.sequences} of {length} "
            f"need {wanted:,}: give more text, or ask for fewer"
        )
    # Spread over the whole text: its beginning may be unlike the rest.
    gap = (len(text.tokens) - length) // max(1, config.sequences - 1) if config.sequences > 1 else 0
    rows = [torch.from_numpy(text.tokens[start * gap : start * gap + length]) for start in range(config.sequences)]
    return Calibration(torch.stack(rows), origin | {"sequences": config.sequences, "length": length})


class Gram:
    """Xᵀ·X of the inputs that a layer was given."""

    def __init__(self, width: int, device: torch.device | None = None):
        self.values = torch.zeros(width, width, device=device)

    def add(self, inputs: Tensor) -> None:
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        self.values.addmm_(flat.t(), flat)

    @property
    def norms(self) -> Tensor:
        """The length of each input's column, (K,)."""
        return self.values.diagonal().sqrt()


ChangeBlock = Callable[[int, dict[str, Linear], dict[str, Gram]], None]


@torch.no_grad()
def walk_blocks(model: Transformer, calibration: Calibration, change: ChangeBlock, name: str) -> Tensor:
    """Lead the calibration text through the model, block by block, and change each block's layers by what they get.

    A block is given what the changed blocks before it put out, so that its change can make up for theirs. One block's
    inputs are in memory at a time.

    Args:
        change: told the number of a block, its linear layers and the second moments of their inputs, both by name.
        name: for the progress.

    Returns:
        the last block's outputs behind the final norm, which the head is given: (sequences, length, D).
    """
    hidden = model.embedding(calibration.tokens.to(model.norm.weight.device))
    rotary = rotary_table(
        torch.arange(hidden.shape[1], device=hidden.device), model.config.width_of_head, model.config.rotary_theta
    )
    with Task(name, len(model.blocks), "blocks") as task:
        for number, block in enumerate(model.blocks):
            layers = {path: layer for path, layer in block.named_modules() if isinstance(layer, Linear)}
            with _watching(layers) as grams:
                for rows in hidden.split(ROWS):
                    block(rows, rotary)
            change(number, layers, grams)
            hidden = torch.cat([block(rows, rotary)[0] for rows in hidden.split(ROWS)])
            task.advance(1)
    return model.norm(hidden)


@contextmanager
def _watching(layers: dict[str, Linear]) -> Iterator[dict[str, Gram]]:
    """Give the second moments of what layers are given meanwhile. Layers that share their inputs share them."""
    grams: dict[str, Gram] = {}
    handles = []
    same = {
        "attention.key": "attention.query",
        "attention.value": "attention.query",
        "feed_forward.up": "feed_forward.gate",
    }
    for path, layer in layers.items():
        if path in same:
            continue
        gram = grams[path] = Gram(layer.in_features, layer.weight.device)
        handles.append(layer.register_forward_pre_hook(lambda _, inputs, gram=gram: gram.add(inputs[0])))
    grams |= {path: grams[first] for path, first in same.items()}
    try:
        yield grams
    finally:
        for handle in handles:
            handle.remove()
