"""`headrace evaluate`: perplexity and bits per byte of a split or a text file, or scores on tasks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb
from train.chain_of_thought.strategy import StrategyConfig

if TYPE_CHECKING:
    from train.evaluate.text import Text
    from train.source import Loaded


@dataclass
class EvaluateConfig:
    """What is scored, on what.

    Args:
        source: a run's folder, a checkpoint or an exported model.
        average: take the average of the weights that training has kept (`ema.decay`).
        data: a dataset folder, here or at a URL; None for the one that the run was trained with.
        split: of the dataset.
        text: a text file to score instead of a dataset.
        sequence_length: tokens of a window; None for what the model was trained with.
        overlap: tokens of each window that are context only.
        batch: windows at once.
        output: file for the result; None for `evaluation.json` in the run's folder.
        tasks: to score instead of a text: names of examples in `conf/task/`, or paths of YAML files.
        task_data: folder that the tasks' data lies in; None for that of each YAML file, here for the examples.
        limit: first records of each task alone; None for all.
        shots: worked examples shown before each record instead of as many as the tasks say.
        strategy: how tasks that write are asked instead of as they say.
        harness: tasks of lm-evaluation-harness, by their name or the path of a YAML file.
        texts_at_once: most texts of tasks in a batch.
        details: file for what was asked and answered, a line for each record.
    """

    source: str = "???"
    average: bool = False
    data: str | None = None
    split: str = "validation"
    text: str | None = None
    sequence_length: int | None = None
    overlap: int = 0
    batch: int = 8
    output: str | None = None
    tasks: list[str] = field(default_factory=list)
    task_data: str | None = None
    limit: int | None = None
    shots: int | None = None
    strategy: StrategyConfig | None = None
    harness: list[str] = field(default_factory=list)
    texts_at_once: int = 64
    details: str | None = None


def run(request: Request) -> int:
    """Score a model and print a table; returns 0."""
    from data_pipeline.foundation.configuration import register

    register("strategy_schema", StrategyConfig, group="strategy")
    composed = request.compose("evaluate", EvaluateConfig)
    if composed is None:
        return 0

    from data_pipeline.foundation.files import write_json
    from train.source import load_source

    config = composed.value
    if config.tasks or config.harness:
        return run_tasks(config, request.json)
    loaded = load_source(Path(config.source), config.average)
    length = check_windows(config, loaded)
    text = _text(config, loaded)
    result = score(config, loaded, text, length) | ({"average": True} if config.average else {})
    output = Path(config.output) if config.output else loaded.run and loaded.run / "evaluation.json"
    if output is not None:
        write_json(output, beside_earlier(output, result))
    print(json.dumps(result, ensure_ascii=False) if request.json else table(result))
    return 0


def run_tasks(config: EvaluateConfig, as_json: bool) -> int:
    """Score a model on tasks and print a table; returns 0."""
    from data_pipeline.foundation.files import write_json, write_text
    from train.chain_of_thought.strategy import check_strategy
    from train.evaluate.task import load_task, run_task
    from train.generation.text_model import TextModel
    from train.source import load_source

    if config.texts_at_once < 1 or (config.limit is not None and config.limit < 1):
        raise UserError("texts_at_once and limit must be at least 1")
    if config.shots is not None and config.shots < 0:
        raise UserError(f"shots={config.shots} can't be below 0")
    if config.strategy is not None:
        check_strategy(config.strategy)
    # Every file is read before the model is: a mistake in the last one is told at once.
    tasks = [load_task(name, Path(config.task_data) if config.task_data else None) for name in config.tasks]
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError("tasks: two have the same name, that of their file without .yaml")
    loaded = load_source(Path(config.source), config.average)
    model = TextModel(loaded, config.texts_at_once)
    results = {task.name: run_task(task, model, config.limit, config.strategy, config.shots) for task in tasks}
    scores = {name: result.scores for name, result in results.items()}
    if config.harness:
        from train.evaluate.harness import run_harness

        scores |= run_harness(config.harness, model, config.limit)
    result = {"checkpoint": str(loaded.folder), "step": loaded.step, "tasks": scores}
    result |= {"average": True} if config.average else {}
    output = Path(config.output) if config.output else loaded.run and loaded.run / "evaluation.json"
    if output is not None:
        write_json(output, beside_earlier(output, result))
    if config.details:
        lines = [{"task": name, **detail} for name, each in results.items() for detail in each.details]
        write_text(Path(config.details), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    print(json.dumps(result, ensure_ascii=False) if as_json else task_table(result))
    return 0


def beside_earlier(output: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with what a file already says of the same checkpoint: tasks beside a text's perplexity."""
    try:
        earlier = json.loads(output.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return result
    if not isinstance(earlier, dict) or any(
        earlier.get(key) != result.get(key) for key in ("checkpoint", "step", "average")
    ):
        return result
    before = earlier.get("tasks")
    tasks = (before if isinstance(before, dict) else {}) | result.get("tasks", {})
    return {**earlier, **result, **({"tasks": tasks} if tasks else {})}


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


def task_table(result: dict[str, Any]) -> str:
    """Return the scores on tasks as lines for a person."""
    rows: list[tuple[str, ...]] = [("task", "score", "value", "± error", "chance", "n")]
    notes = []
    for name, task in result["tasks"].items():
        groups = [("", task["scores"]), *((f" {group}", scores) for group, scores in task.get("by", {}).items())]
        for group, scores in groups:
            rows += [_row(name + group, label, score) for label, score in scores.items()]
        if "majority" in task:
            notes.append(f"{name}: always the most frequent answer {task['majority']:.4f}")
        for label, score in task["scores"].items():
            if "signature" in score:
                notes.append(f"{name}: the source copied {score['copy']:.2f}, {label} {score['signature']}")
        if task.get("prompts_shortened"):
            notes.append(f"{name}: {task['prompts_shortened']} prompts were too long; their beginning was left out")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]  # fmt: skip
    return "\n".join([f"checkpoint {result['checkpoint']} (step {result['step']:,})", *lines, *notes])


def _row(task: str, name: str, score: dict[str, Any]) -> tuple[str, ...]:
    error, chance = ("" if score[key] is None else f"{score[key]:.4f}" for key in ("standard_error", "chance"))
    return task, name, f"{score['value']:.4f}", error, chance, "" if score["n"] is None else f"{score['n']:,}"


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
    summary="perplexity and bits per byte of a split or a text file, or scores on tasks",
    run=run,
    groups=("strategy",),
    keys=(
        ("source", "a run's folder, a checkpoint or an exported model"),
        ("average=true", "the average of the weights, of a run with ema.decay"),
        ("data", "a dataset folder or its URL; the run's own if left out"),
        ("split", "validation or train"),
        ("text", "a text file instead of a dataset"),
        ("overlap", "tokens of each window that are context only"),
        ("tasks", "to score instead: YAML files, or examples of conf/task, as a list"),
        ("task_data", "folder of the tasks' data, if it isn't that of the YAML file"),
        ("harness", "tasks of lm-evaluation-harness, by name or YAML file, as a list"),
        ("limit", "first records of each task alone"),
        ("shots", "examples shown before each record instead of as many as the tasks say; 0 for a tuned model"),
        ("details", "file for what was asked and answered"),
        ("output", "file for the result; evaluation.json in the run's folder if left out"),
    ),
    examples=(
        "headrace evaluate source=runs/demo",
        "headrace evaluate source=runs/demo text=README.md --json",
        "headrace evaluate source=runs/demo 'tasks=[my_tasks/sums.yaml]' strategy=zero_shot limit=200",
        "headrace evaluate source=runs/demo/checkpoints/step-00000600 data=datasets/python_docs overlap=128",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
