"""`headrace evaluate`: perplexity and bits per byte of a split or a text file, beside what compressors reach."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from train.evaluate.text import Text
    from train.source import Loaded


@dataclass
class EvaluateConfig:
    """What is scored, on what.

    Args:
        source: a run's folder or a checkpoint.
        data: a dataset folder, here or at a URL; None for the one that the run was trained with.
        split: of the dataset.
        text: a text file to score instead of a dataset.
        sequence_length: tokens of a window; None for what the model was trained with.
        overlap: tokens of each window that are context only.
        batch: windows at once.
        output: file for the result; None for `evaluation.json` in the run's folder.
    """

    source: str = "???"
    data: str | None = None
    split: str = "validation"
    text: str | None = None
    sequence_length: int | None = None
    overlap: int = 0
    batch: int = 8
    output: str | None = None


def run(request: Request) -> int:
    """Score a model and print a table; returns 0."""
    from data_pipeline.foundation.configuration import compose_configuration, register

    register("evaluate_schema", EvaluateConfig)
    composed = compose_configuration("evaluate", request.overrides, EvaluateConfig, request.folders)
    if request.print_configuration:
        print(composed.yaml(), end="")
        return 0

    from data_pipeline.foundation.files import write_json
    from train.source import load_source

    config = composed.value
    loaded = load_source(Path(config.source))
    length = check_windows(config, loaded)
    text = _text(config, loaded)
    result = score(config, loaded, text, length)
    output = Path(config.output) if config.output else loaded.run and loaded.run / "evaluation.json"
    if output is not None:
        write_json(output, result)
    print(json.dumps(result, ensure_ascii=False) if request.json else table(result))
    return 0


def check_windows(config: EvaluateConfig, loaded: Loaded) -> int:
    """Return the length of a window.

    Raises:
        UserError: windows that the model can't take or that overlap wholly.
    """
    length = config.sequence_length or loaded.sequence_length
    if not 1 <= length <= loaded.model.config.maximum_length:
        raise UserError(f"sequence_length={length} must lie between 1 and {loaded.model.config.maximum_length}")
    if not 0 <= config.overlap < length:
        raise UserError(f"overlap={config.overlap} must lie between 0 and {length - 1}")
    if config.batch < 1:
        raise UserError("batch must be at least 1")
    return length


def score(config: EvaluateConfig, loaded: Loaded, text: Text, length: int) -> dict[str, Any]:
    """Return the scores of a text with what they were measured on, as `evaluation.json` holds them."""
    from data_pipeline.foundation.files import text_hash
    from data_pipeline.foundation.progress import Task
    from data_pipeline.tokenization.token_bytes import token_bytes
    from train.evaluate.perplexity import score_tokens

    assert loaded.model.config.vocabulary_size is not None
    sizes = token_bytes(loaded.tokenizer, loaded.model.config.vocabulary_size)
    with Task("evaluate", len(text.tokens) - 1, "tokens") as task:
        scored = score_tokens(
            loaded.model,
            text.tokens,
            sizes,
            length,
            config.overlap,
            config.batch,
            loaded.device,
            progress=lambda done: task.advance(done - task.done),
        )
    return {
        "checkpoint": str(loaded.folder),
        "step": loaded.step,
        "text": text.name,
        "text_xxh3_128": text_hash(text.content.decode()),
        "tokens": scored.tokens,
        "bytes": scored.bytes,
        "sequence_length": length,
        "overlap": config.overlap,
        "loss": scored.loss,
        "perplexity": scored.perplexity,
        "bits_per_byte": scored.bits_per_byte,
        "compressors_bits_per_byte": text.compressed_bits_per_byte(),
    }


def table(result: dict[str, Any]) -> str:
    """Return the scores as lines for a person."""
    gzip, xz = (result["compressors_bits_per_byte"][name] for name in ("gzip_9", "xz_9"))
    return "\n".join(
        [
            f"checkpoint     {result['checkpoint']} (step {result['step']:,})",
            f"text           {result['text']}: {result['tokens']:,} tokens, {result['bytes']:,} bytes",
            f"loss           {result['loss']:.4f} nats per token",
            f"perplexity     {result['perplexity']:.2f}",
            f"bits per byte  {result['bits_per_byte']:.4f}   (gzip -9: {gzip:.4f}, xz -9: {xz:.4f})",
        ]
    )


def _text(config: EvaluateConfig, loaded: Loaded) -> Text:
    import yaml

    from data_pipeline.dataset import CacheConfig, DataConfig, open_dataset
    from train.evaluate.text import file_text, split_text

    if config.text is not None:
        return file_text(Path(config.text), loaded.tokenizer)
    if config.data is not None:
        data = DataConfig(config.data)
    elif loaded.run is not None:
        of_run = yaml.safe_load((loaded.run / "config.yaml").read_text(encoding="utf-8"))["data"]
        if of_run["path"] is None:
            raise UserError(f"{loaded.run} learnt from raw text, which is no dataset: give data=FOLDER or text=FILE")
        data = DataConfig(of_run["path"], cache=CacheConfig(**of_run.get("cache", {})))
    else:
        raise UserError("a checkpoint outside of its run says nothing of its data: give data=FOLDER or text=FILE")
    return split_text(open_dataset(data), config.split, loaded.tokenizer)


VERB = Verb(
    name="evaluate",
    summary="perplexity and bits per byte of a split or a text file, beside what compressors reach",
    run=run,
    keys=(
        ("source", "a run's folder or a checkpoint"),
        ("data", "a dataset folder or its URL; the run's own if left out"),
        ("split", "validation or train"),
        ("text", "a text file instead of a dataset"),
        ("overlap", "tokens of each window that are context only"),
        ("output", "file for the result; evaluation.json in the run's folder if left out"),
    ),
    examples=(
        "headrace evaluate source=runs/demo",
        "headrace evaluate source=runs/demo text=README.md --json",
        "headrace evaluate source=runs/demo/checkpoints/step-00000600 data=datasets/python_docs overlap=128",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
