"""What a model is worth and how fast it is: the same texts, tasks and prompts before and after."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.foundation import progress
from data_pipeline.foundation.errors import UserError
from train.compress.settings import MeasureConfig
from train.evaluate.task import Task, load_task, run_task
from train.evaluate.text import Text, file_text, split_text
from train.model.attention import KeyValueCache
from train.source import Loaded


@dataclass(frozen=True)
class Speed:
    """Tokens per second: of a prompt read at once, and of tokens written one by one behind it."""

    prefill: float
    decode: float


def texts_of(config: MeasureConfig, loaded: Loaded) -> list[Text]:
    """Return the texts to score.

    Raises:
        UserError: there is none: what a smaller model costs must be seen.
    """
    import yaml

    from data_pipeline.dataset import CacheConfig, DataConfig, open_dataset

    texts = [(Path(path).stem, file_text(Path(path), loaded.tokenizer)) for path in config.texts]
    data = DataConfig(config.data) if config.data is not None else None
    if data is None and not texts and loaded.run is not None:
        of_run = yaml.safe_load((loaded.run / "config.yaml").read_text(encoding="utf-8"))["data"]
        if of_run["path"] is not None:
            data = DataConfig(of_run["path"], cache=CacheConfig(**of_run.get("cache", {})))
    if data is not None:
        texts.append(("validation", split_text(open_dataset(data), "validation", loaded.tokenizer)))
    if not texts:
        raise UserError(
            "nothing to measure on, and what a smaller model costs must be seen: give measure.texts=[FILE,…] or "
            "measure.data=DATASET"
        )
    if len({name for name, _ in texts}) < len(texts):
        raise UserError("measure.texts: two have the same name, that of their file without its ending")
    last = None if config.tokens is None else config.tokens + 1
    return [Text(name, text.tokens[:last], text.content) for name, text in texts]


def check_measure(config: MeasureConfig) -> None:
    """Raise UserError for settings outside their range."""
    for key in ("length", "decode", "rounds"):
        if getattr(config, key) < 1:
            raise UserError(f"measure.{key}={getattr(config, key)} must be at least 1")
    for key in ("tokens", "limit"):
        value = getattr(config, key)
        if value is not None and value < 1:
            raise UserError(f"measure.{key}={value} must be at least 1")


def scores_of(config: MeasureConfig, loaded: Loaded, texts: list[Text]) -> dict[str, dict[str, Any]]:
    """Return loss, perplexity and bits per byte of each text, by its name, as `evaluate` computes them."""
    from data_pipeline.tokenization.token_bytes import token_bytes
    from train.evaluate.perplexity import score_tokens

    assert loaded.model.config.vocabulary_size is not None
    sizes = token_bytes(loaded.tokenizer, loaded.model.config.vocabulary_size)
    length = min(config.length, loaded.model.config.maximum_length)
    scores = {}
    for text in texts:
        scored = score_tokens(loaded.model, text.tokens, sizes, length, 0, 4, loaded.device)
        scores[text.name] = {
            "tokens": scored.tokens,
            "bytes": scored.bytes,
            "loss": scored.loss,
            "perplexity": scored.perplexity,
            "bits_per_byte": scored.bits_per_byte,
        }
    return scores


def tasks_of(config: MeasureConfig) -> list[Task]:
    """Read the tasks. Raises UserError: one can't be read."""
    return [load_task(name, Path(config.task_data) if config.task_data else None) for name in config.tasks]


def task_scores(config: MeasureConfig, loaded: Loaded, tasks: list[Task]) -> dict[str, Any]:
    """Return the scores on tasks, by their name, as `evaluate` computes them."""
    from train.generation.text_model import TextModel

    model = TextModel(loaded)
    return {task.name: run_task(task, model, config.limit, None).scores for task in tasks}


@torch.no_grad()
def speeds_of(config: MeasureConfig, models: list[Loaded], tokens: list[int]) -> list[Speed]:
    """Return the speeds of models on one prompt, each measured in turn so that a busy moment hits all alike.

    Args:
        tokens: a text, whose first `config.length` are the prompt.
    """
    taken: list[list[tuple[float, float]]] = [[] for _ in models]
    with progress.Task("speed", config.rounds * len(models), "rounds") as rounds_done:
        for _ in range(config.rounds):
            for rounds, loaded in zip(taken, models):
                rounds.append(_one_round(config, loaded, tokens))
                rounds_done.advance(1)
    return [Speed(*(statistics.median(each) for each in zip(*rounds))) for rounds in taken]


def _one_round(config: MeasureConfig, loaded: Loaded, tokens: list[int]) -> tuple[float, float]:
    model, device = loaded.model, loaded.device
    longest = model.config.maximum_length
    length = max(1, min(config.length, len(tokens), longest - config.decode))
    count = min(config.decode, longest - length)
    prompt = torch.tensor([tokens[:length]], device=device)
    cache = KeyValueCache(model.config, 1, length + count, device, model.norm.weight.dtype)
    last = torch.tensor([[length - 1]], device=device)
    started = time.perf_counter()
    token = model(prompt, cache=cache, at_BN=last)[0, -1].argmax().item()
    prefilled = time.perf_counter()
    for _ in range(count):
        token = model(torch.tensor([[token]], device=device), cache=cache)[0, -1].argmax().item()
    ended = time.perf_counter()
    return length / (prefilled - started), count / max(1e-9, ended - prefilled)
