"""A checkpoint as a GGUF file, read back and compared before it counts."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.foundation.progress import Task
from train.exchange.architectures import model_type_of
from train.exchange.checkpoint_source import Source
from train.exchange.gguf_file import GgufModel, rounded, write_gguf
from train.exchange.gguf_tokenizer import tokenizer_of, vocabulary_of
from train.exchange.proof import Proof, compare, our_logits, passage_tokens, require_same_tokens
from train.exchange.staging import require_room, staged_file


def export_gguf(source: Source, output: Path, dtype: str) -> dict[str, Any]:
    """Write a GGUF file.

    The proof is by our own reader, in bounded memory: what Transformers and llama.cpp read in such a file, the tests
    and measurements of the reader compare.

    Args:
        dtype: `float32`, `float16` or `q8_0`.

    Returns:
        what was written and proven.

    Raises:
        UserError: the output exists, or llama.cpp has no such model or tokenizer.
        Failure: the checkpoint is damaged, there is no room, or the proof fails. Nothing is left behind.
    """
    if source.config.experts:
        raise UserError(
            f"format=gguf knows no experts, of which this model has {source.config.experts}: take format=hf"
        )
    model_type_of(source.config)
    assert source.config.vocabulary_size is not None
    vocabulary = vocabulary_of(source.tokenizer, source.config.vocabulary_size)
    values = sum(map(prod, source.shapes.values()))
    bytes_of_value = {"float32": 4, "float16": 2, "q8_0": 34 / 32}[dtype]
    require_room(output.parent, int(values * bytes_of_value))
    with staged_file(output) as path:
        with Task("export", None, "bytes") as task:
            write_gguf(
                path, source.config, vocabulary, source.shapes, source.read, dtype, source.name, source.lineage,
                task.advance,
            )  # fmt: skip
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        proof = _prove(path, source, dtype)
        entry = {"bytes": path.stat().st_size, "xxh3_128": file_hash(path)}
    return {
        "format_version": 1,
        "dtype": dtype,
        "lineage": source.lineage,
        "measured": source.measured,
        "proof": proof.figures() | {"precision": dtype},
        "files": {output.name: entry},
    }


def _prove(path: Path, source: Source, dtype: str) -> Proof:
    model = GgufModel(path)
    read_back = tokenizer_of(model.vocabulary(), str(path))
    require_same_tokens(source.tokenizer, read_back.encode, read_back.decode)
    tokens = passage_tokens(source.tokenizer, source.config)
    unrounded = our_logits(source.config, source.read, tokens)
    expected = unrounded
    if dtype != "float32":
        expected = our_logits(source.config, lambda name: rounded(source.read(name), dtype), tokens)
    found = our_logits(model.config, model.parameter, tokens)
    return compare(expected, found, "our own reader", None if dtype == "float32" else unrounded)
