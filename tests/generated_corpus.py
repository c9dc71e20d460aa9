"""Small corpora made on the spot: every document is different, so that a document can be found again by its text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.schemas import register_schemas

WORDS = [
    "river",
    "stone",
    "water",
    "mill",
    "wheel",
    "stream",
    "valley",
    "1984",
    "été",
    "水",
    "naïve",
    "don't",
    "café\n",
]


def generated_texts(count: int, seed: int = 0) -> list[str]:
    """Return `count` different texts of 5 to 200 words."""
    chance = random.Random(seed)
    return [f"Text {number}: " + " ".join(chance.choices(WORDS, k=chance.randint(5, 200))) for number in range(count)]


def write_json_lines(path: Path, texts: Sequence[str]) -> Path:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    if not path.exists() or path.read_text(encoding="utf-8") != content:  # a file with a new time is a new file
        path.write_text(content, encoding="utf-8")
    return path


def configuration(*overrides: str) -> PrepareConfig:
    """Compose the configuration as the command line does."""
    register_schemas()
    return compose_configuration("prepare", overrides, PrepareConfig).value


def prepare_texts(
    folder: Path, texts: Sequence[str], *overrides: str, output: str = "dataset"
) -> tuple[Path, Manifest]:
    """Prepare texts with one worker, small blocks and several shards; return the dataset's folder and manifest."""
    corpus = write_json_lines(folder / "corpus.jsonl", texts)
    settings = (
        "corpus=files",
        f"corpus.paths=['{corpus}']",
        f"output='{folder / output}'",
        "tokenizer.vocabulary_size=400",
        "validation_fraction=0.1",
        "block_tokens=500",
        "shard_tokens=4000",
        "workers=1",
    )
    return folder / output, prepare(configuration(*settings, *overrides))
