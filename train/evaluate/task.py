"""A task: a YAML file that says what is asked of each record of a data file, and how the answers are scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash
from train.chain_of_thought.strategy import StrategyConfig
from train.evaluate.kinds import KINDS
from train.evaluate.kinds.generation import GenerationTask
from train.evaluate.kinds.prompted import PromptedTask, TaskConfig
from train.evaluate.scores import Outcome
from train.generation.records import data_hash, read_records
from train.generation.text_model import TextModel

HASHED_APART = ("data", "by")


@dataclass(frozen=True)
class Task:
    """A task that has been read and checked.

    Args:
        folder: that its data lies in.
    """

    name: str
    config: TaskConfig
    folder: Path


def load_task(name: str, data_folder: Path | None = None) -> Task:
    """Return the task of a YAML file, or of an example's name.

    Raises:
        UserError: no such task, not YAML, an unknown kind or setting.
    """
    import yaml

    from data_pipeline.foundation.configuration import configuration_folder, nearest
    from data_pipeline.foundation.options import option_names
    from data_pipeline.foundation.typed import typed

    path, folder = Path(name), data_folder or Path(name).parent
    if path.suffix not in (".yaml", ".yml"):
        path, folder = configuration_folder() / "task" / f"{name}.yaml", data_folder or Path()
        if not path.is_file():
            known = option_names("task")
            raise UserError(
                f"there is no task `{name}`.{nearest(name, known)} Tasks are YAML files, or one of: {', '.join(known)}"
            )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"task {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"task {path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict) or settings.get("kind") not in KINDS:
        raise UserError(f"task {path} needs a `kind`: {', '.join(KINDS)}")
    schema = KINDS[settings["kind"]]
    config = typed(schema, settings, f"task {path}")
    config.check()
    return Task(path.stem, config, folder)


def run_task(
    task: Task,
    model: TextModel,
    limit: int | None = None,
    strategy: StrategyConfig | None = None,
    shots: int | None = None,
) -> Result:
    """Return the scores of a model on a task.

    Args:
        limit: first records alone.
        strategy: of a task that writes, instead of its own.
        shots: examples before each record of a task that asks, instead of as many as it says.
    """
    config = task.config
    if shots is not None and isinstance(config, PromptedTask):
        config = replace(config, shots=shots)
    if strategy is not None and isinstance(config, GenerationTask):
        config = replace(config, strategy=asdict(strategy))
    records = read_records(config.data, task.folder, config.columns, limit)
    before = model.shortened
    outcome = config.run(model, records, task.folder, task.name)
    everything = range(len(records))
    scores = [*(column.score(name, everything) for name, column in outcome.columns.items()), *outcome.scores]
    settings = {key: value for key, value in asdict(config).items() if key not in HASHED_APART}
    settings |= {"examples_xxh3_128": config.examples_hash(task.folder)}
    return Result(
        {
            "kind": config.kind,
            "data": config.data,
            "data_xxh3_128": data_hash(config.data, task.folder),
            "prompt_xxh3_128": json_hash(settings),
            "records": len(records),
            "prompts_shortened": model.shortened - before,
            "scores": {score.name: score.as_json() for score in scores},
            **outcome.more,
            **({"by": _by(config.by, records, outcome)} if config.by else {}),
        },
        outcome.details,
    )


@dataclass(frozen=True)
class Result:
    """What `evaluation.json` holds of a task under its name, and a line for each record."""

    scores: dict[str, Any]
    details: list[dict[str, Any]]


def _by(name: str, records: list[dict[str, Any]], outcome: Outcome) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        if name not in record:
            raise UserError(f"by: {name}: a record has no such field; it has {', '.join(record)}")
        groups.setdefault(str(record[name]), []).append(row)
    return {
        group: {of: column.score(of, rows).as_json() for of, column in outcome.columns.items()}
        for group, rows in sorted(groups.items())
    }
