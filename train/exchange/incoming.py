"""A model from elsewhere: its shape, tokenizer and weights, as a Hugging Face folder or a GGUF file has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.exchange.architectures import config_of, shapes_of, their_name
from train.exchange.experts import StackedExperts
from train.exchange.gguf_file import GgufModel, gguf_name
from train.exchange.gguf_tokenizer import tokenizer_of
from train.exchange.weights import PICKLES, SafetensorsWeights
from train.model.transformer import TransformerConfig


@dataclass(frozen=True)
class Incoming:
    """What is taken in.

    Args:
        read: gives a parameter, float32, by its name with us.
        logits: gives what Transformers computes with the original, (T, vocabulary), for tokens.
        check_tokenizer: raises Failure where Transformers reads another tokenizer out of the original.
        origin: its files with their hashes, and the lineage that it carries, if we wrote it.
    """

    config: TransformerConfig
    tokenizer: Tokenizer
    read: Callable[[str], Tensor]
    logits: Callable[[list[int]], Tensor]
    check_tokenizer: Callable[[], None]
    origin: dict[str, Any]


def open_folder(folder: Path, end_of_document: str | None = None) -> Incoming:
    """Open a Hugging Face folder.

    Raises:
        UserError: it is of another architecture, its weights are pickles, or its tokenizer belongs to another model.
        Failure: it is damaged.
    """
    settings = _settings(folder / "config.json")
    config = config_of(settings, str(folder / "config.json"))
    weights = SafetensorsWeights(folder)
    stacked = StackedExperts(weights)
    check_shapes(config, stacked, their_name, str(folder))
    tokenizer = load_tokenizer(folder, end_of_document)
    check_tokenizer(config, tokenizer, None if end_of_document else settings.get("eos_token_id"), str(folder))

    def logits(tokens: list[int]) -> Tensor:
        from train.exchange.transformers_side import logits_of_folder

        return logits_of_folder(folder, weights, tokens)

    def compare_tokenizers() -> None:
        from train.exchange.transformers_side import require_same_tokenizer

        require_same_tokenizer(folder, tokenizer)

    files = ["config.json", "tokenizer.json", *weights.files]
    return Incoming(
        config=config,
        tokenizer=tokenizer,
        read=lambda name: stacked.read(their_name(name)),
        logits=logits,
        check_tokenizer=compare_tokenizers,
        origin={"files": {name: file_hash(folder / name) for name in files}, "lineage": weights.lineage},
    )


def open_gguf(path: Path, end_of_document: str | None = None) -> Incoming:
    """Open a GGUF file.

    Transformers computes with it as a whole, in memory. Its reading of the tokenizer is not compared: it doesn't heed
    the file's way of cutting text.

    Raises:
        UserError: it is of another architecture, or its tokenizer is of another kind or model.
        Failure: it is damaged.
    """
    model = GgufModel(path)
    check_shapes(model.config, model, gguf_name, str(path))
    tokenizer = tokenizer_of(model.vocabulary(), str(path), end_of_document)
    check_tokenizer(model.config, tokenizer, None, str(path))

    def logits(tokens: list[int]) -> Tensor:
        from train.exchange.transformers_side import logits_of_gguf

        return logits_of_gguf(path, tokens)

    return Incoming(
        config=model.config,
        tokenizer=tokenizer,
        read=model.parameter,
        logits=logits,
        check_tokenizer=lambda: None,
        origin={"files": {path.name: file_hash(path)}, "lineage": model.lineage},
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; a Hugging Face folder has one") from None
    except (OSError, ValueError) as error:
        raise Failure(f"{path} can't be read: {error}") from None
    if not isinstance(settings, dict):
        raise Failure(f"{path} is damaged: it isn't a JSON object")
    return settings


def check_shapes(config: TransformerConfig, weights: Any, named: Callable[[str], str], where: str) -> None:
    """Refuse weights that are not exactly those of the model.

    Args:
        weights: what is there, of `Weights`.
        named: gives the name that a parameter of ours has there.

    Raises:
        UserError: some are missing, too many, or of another shape; or an untied head where the model has none.
    """
    expected = {named(name): shape for name, shape in shapes_of(config).items()}
    there = {name: shape for name, shape in weights.shapes.items() if not name.endswith("rotary_emb.inv_freq")}
    head, embedding = named("head.weight"), named("embedding.weight")
    # Some tools write a tied matrix twice.
    twice = config.tied_embeddings and head in there and there.get(embedding) == there.pop(head)
    if twice and not torch.equal(weights.read(head), weights.read(embedding)):
        raise UserError(f"{where}: {head} is another matrix than {embedding}, but the model ties them")
    for name in sorted(expected.keys() | there.keys()):
        if name not in there:
            raise UserError(f"{where} lacks {name}")
        if name not in expected:
            raise UserError(f"{where} has {name}, which its architecture doesn't have")
        if expected[name] != there[name]:
            raise UserError(f"{where}: {name} is {there[name]}, its configuration makes it {expected[name]}")


def check_tokenizer(config: TransformerConfig, tokenizer: Tokenizer, ends: int | list[int] | None, where: str) -> None:
    """Refuse a tokenizer that can't be the model's.

    Args:
        ends: ids that the model's configuration says end a text, if it says so.

    Raises:
        UserError: it has ids that the model has no row for, or ends documents with another token.
    """
    assert config.vocabulary_size is not None
    if tokenizer.vocabulary_size > config.vocabulary_size:
        raise UserError(
            f"{where}: the tokenizer is another model's: it has {tokenizer.vocabulary_size:,} tokens, the model "
            f"{config.vocabulary_size:,}"
        )
    if ends is not None and tokenizer.end_of_document not in (ends if isinstance(ends, list) else [ends]):
        raise UserError(
            f"{where}: the tokenizer ends with token {tokenizer.end_of_document} "
            f"({tokenizer.end_of_document_name}), the configuration says {ends}: is it another model's? "
            "If not, name the token by end_of_document=…"
        )


def refuse_pickle(path: Path) -> None:
    """Raise UserError for a file that can run code when it is read."""
    if path.suffix in PICKLES:
        raise UserError(f"source={path} is a pickle, which can run code when it is read: save the model as safetensors")
