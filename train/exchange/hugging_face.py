"""A checkpoint as a Hugging Face folder: weights, configuration, tokenizer and model card, proven before they count."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.files import file_hash, write_json, write_text
from data_pipeline.foundation.progress import Task
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.exchange.architectures import config_of, settings_of, their_name
from train.exchange.checkpoint_source import Source
from train.exchange.experts import StackedExperts, one_by_one, reading_one_by_one
from train.exchange.model_card import model_card
from train.exchange.proof import Proof, compare, our_logits, passage_tokens, require_same_tokens
from train.exchange.record import RECORD
from train.exchange.safetensors_shards import plan_shards, write_shards
from train.exchange.staging import require_room, staged_folder
from train.exchange.weights import SafetensorsWeights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
"""Tokens that end a turn of a conversation, where a chat template writes them."""


def export_folder(source: Source, output: Path, dtype: str, shard_bytes: int, prover: str) -> dict[str, Any]:
    """Write a folder that Transformers loads.

    Args:
        dtype: of `DTYPES`.
        shard_bytes: most bytes of tensors in one file.
        prover: `transformers` or `own`.

    Returns:
        what `headrace.json` holds.

    Raises:
        UserError: the output exists, or no architecture fits the model.
        Failure: the checkpoint is damaged, there is no room, or the proof fails. Nothing is left behind.
    """
    settings = settings_of(source.config) | special_token_ids(source.tokenizer) | {"dtype": dtype}
    parameters = sum(map(prod, source.shapes.values()))
    require_room(output.parent, parameters * DTYPES[dtype].itemsize)
    with staged_folder(output) as folder:
        write_json(folder / "config.json", settings)
        ids = special_token_ids(source.tokenizer)
        write_json(folder / "generation_config.json", ids | {"do_sample": False})
        _write_tokenizer(folder, source.tokenizer)
        _write_weights(folder, source, DTYPES[dtype], shard_bytes)
        proof = _prove(folder, source, DTYPES[dtype], prover)
        record = {
            "format_version": 1,
            "dtype": dtype,
            "lineage": source.lineage,
            "measured": source.measured,
            "proof": proof.figures() | {"precision": dtype},
        }
        write_text(folder / "README.md", model_card(source.name, settings, record, parameters))
        files = {path.name: path for path in sorted(folder.iterdir())}
        record["files"] = {
            name: {"bytes": path.stat().st_size, "xxh3_128": file_hash(path)} for name, path in files.items()
        }
        write_json(folder / RECORD, record)
    return record


def special_token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ids by which generation begins, ends and pads. A document begins behind the end of another."""
    ends = [tokenizer.end_of_document]
    for name in TURN_ENDS:
        token = tokenizer.backend.token_to_id(name)
        if token is not None and name in (tokenizer.chat_template or "") and token not in ends:
            ends.append(token)
    named = {key: tokenizer.backend.token_to_id(name) for key, name in tokenizer.named_tokens.items()}
    first = named.get("bos_token")
    return {
        "bos_token_id": tokenizer.end_of_document if first is None else first,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        **({"pad_token_id": named["pad_token"]} if "pad_token" in named else {}),
    }


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    if tokenizer.chat_template is not None:
        write_text(folder / "chat_template.jinja", tokenizer.chat_template)


def _write_weights(folder: Path, source: Source, dtype: torch.dtype, shard_bytes: int) -> None:
    ours = {their_name(name): name for name in source.shapes}
    shapes = one_by_one({theirs: source.shapes[name] for theirs, name in ours.items()})
    read = reading_one_by_one(lambda name: source.read(ours[name]))
    metadata = {"format": "pt", "headrace": json.dumps(source.lineage, ensure_ascii=False)}
    shards = plan_shards(shapes, dtype, shard_bytes)
    total = sum(map(prod, shapes.values())) * dtype.itemsize
    with Task("export", total, "bytes") as task:
        write_shards(folder, shards, dtype, read, metadata, task.advance)


def _prove(folder: Path, source: Source, dtype: torch.dtype, prover: str) -> Proof:
    weights = SafetensorsWeights(folder)
    tokens = passage_tokens(source.tokenizer, source.config)
    unrounded = our_logits(source.config, source.read, tokens)
    rounded = unrounded
    if dtype != torch.float32:
        rounded = our_logits(source.config, rounding(source.read, dtype), tokens)
    if prover == "own":
        theirs, by = _own_logits(folder, source.tokenizer, weights, tokens), "our own reader"
    else:
        from train.exchange import transformers_side

        theirs = transformers_side.logits_of_folder(folder, weights, tokens)
        transformers_side.require_same_tokenizer(folder, source.tokenizer)
        transformers_side.require_same_end(folder, source.tokenizer)
        by = f"Transformers {transformers_side.transformers_version()}"
    return compare(rounded, theirs, by, None if dtype == torch.float32 else unrounded)


def _own_logits(folder: Path, tokenizer: Tokenizer, weights: SafetensorsWeights, tokens: list[int]) -> Tensor:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    read_back = load_tokenizer(folder)
    require_same_tokens(tokenizer, read_back.encode, read_back.decode)
    stacked = StackedExperts(weights)
    return our_logits(config_of(settings, "config.json"), lambda name: stacked.read(their_name(name)), tokens)


def rounding(read: Callable[[str], Tensor], dtype: torch.dtype) -> Callable[[str], Tensor]:
    """Return a reader of the same tensors as they come back from another precision."""
    return lambda name: read(name).to(dtype).float()
