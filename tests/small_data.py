"""Text made on the spot, with something in it to learn, and a small dataset of it: several shards, many blocks."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.readers.files import FilesConfig
from data_pipeline.tokenization.bpe import BpeConfig

WORDS = (
    *("water", "channel", "gate", "mill", "wheel", "stream", "stone", "valley", "river", "turn", "slow", "deep"),
    *("bright", "winter", "summer", "grain", "flour", "road", "bridge", "bank", "hill", "cloud", "rain", "morning"),
    *("keeper", "letter", "answer", "question", "number", "table", "naïve", "café", "Überlauf", "東京", "λόγος", "🚣"),
)


def walking_texts(count: int, seed: int = 7) -> list[str]:
    """Return documents of 3 to 400 words, drawn by a Markov-like rule so that there is something to learn."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        at = draw.randrange(len(WORDS))
        words = []
        for _ in range(draw.choice((3, 20, 60, 150, 400))):
            words.append(WORDS[at])
            at = (at * 5 + draw.choice((1, 1, 1, 2, 3))) % len(WORDS)
        texts.append(" ".join(words) + ".")
    return texts


def make_dataset(folder: Path, texts: Sequence[str], **settings: Any) -> Path:
    """Prepare a dataset of several shards and many small blocks; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    settings = {"workers": 1, "validation_fraction": 0.1, "block_tokens": 512, "shard_tokens": 32768} | settings
    corpus = FilesConfig(paths=[str(source)])
    prepare(PrepareConfig(str(folder / "dataset"), corpus, BpeConfig(320, 1 << 20), **settings))
    return folder / "dataset"
