"""`headrace samples`: tasks' worked examples as samples to tune on, asked word for word as the tasks ask."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb


@dataclass
class TaskSamplesConfig:
    """What is written, and where.

    Args:
        tasks: names of examples in `conf/task/`, or paths of YAML files.
        task_data: folder that the tasks' data lies in; None for that of each YAML file, here for the examples.
        limit: first samples of each task alone; None for all.
        output: file of JSON lines, each with `prompt` and `completion`.
    """

    tasks: list[str] = field(default_factory=list)
    task_data: str | None = None
    limit: int | None = None
    output: str = "???"


def run(request: Request) -> int:
    """Write the samples and say how many; returns 0."""
    composed = request.compose("samples", TaskSamplesConfig)
    if composed is None:
        return 0

    from data_pipeline.foundation.files import write_text
    from data_pipeline.foundation.progress import say
    from train.evaluate.kinds.prompted import PromptedTask
    from train.evaluate.task import load_task

    config = composed.value
    output = Path(config.output)
    if output.suffix != ".jsonl":
        raise UserError(f"output={output} must be a .jsonl file: `prepare corpus=samples` knows samples by that")
    if config.limit is not None and config.limit < 1:
        raise UserError(f"limit={config.limit} must be at least 1")
    if not config.tasks:
        raise UserError("tasks=[] names none; for instance tasks=[sst2], or a YAML file")
    samples = []
    for task in (load_task(name, Path(config.task_data) if config.task_data else None) for name in config.tasks):
        if not isinstance(task.config, PromptedTask) or task.config.examples is None:
            raise UserError(f"task {task.name} has no `examples`, a file of records with answers to learn from")
        samples += task.config.samples(task.folder, task.name, config.limit)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    say(f"{len(samples):,} samples in {output}")
    return 0


VERB = Verb(
    name="samples",
    summary="tasks' worked examples → samples to tune on",
    run=run,
    keys=(
        ("tasks", "examples of conf/task, or YAML files, as a list"),
        ("task_data", "folder of the tasks' data, if it isn't that of the YAML file"),
        ("limit", "first samples of each task alone"),
        ("output", "file of JSON lines, for `prepare corpus=samples`"),
    ),
    examples=(
        "headrace samples 'tasks=[sst2]' task_data=data output=samples/sst2.jsonl",
        "headrace samples 'tasks=[my_tasks/sums.yaml]' output=samples/sums.jsonl limit=2000",
    ),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
