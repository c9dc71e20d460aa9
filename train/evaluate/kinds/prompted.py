"""What all kinds of tasks have, and the prompts of those that ask: examples first, then the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import json_hash
from train.evaluate.scores import Outcome
from train.generation.records import Record, data_hash, read_records
from train.generation.templates import render
from train.generation.text_model import TextModel


@dataclass
class TaskConfig:
    """What every task has.

    Args:
        kind: of the task.
        data: a file of records, or parallel files of lines by the fields that they fill.
        columns: names of a table's columns, where its first line doesn't have them.
        by: field whose values the scores are also given for.
    """

    kind: str
    data: Any
    columns: list[str] = field(default_factory=list)
    by: str | None = None

    def check(self) -> None:
        """Raise UserError for settings that don't fit together."""

    def examples_hash(self, folder: Path) -> str | None:
        """Return the hash of what is shown before a record; None for nothing."""
        return None

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        """Score a model on records; `name` is of the task, for messages."""
        raise NotImplementedError


@dataclass
class PromptedTask(TaskConfig):
    """A task that asks.

    Args:
        prompt: template of what is asked of a record.
        answer: template of the right answer.
        introduction: text before everything.
        examples: file of records to show with their answers before each.
        shots: how many of them, the first ones.
        example_answer: template of an example's answer, with its steps written out; that of `answer` if empty.
        example_columns: names of the columns, where `examples` is a table without.
        delimiter: between a prompt and its answer.
        separator: behind an example.
    """

    prompt: str = "{{ prompt }}"
    answer: str = "{{ answer }}"
    introduction: str = ""
    examples: Any = None
    shots: int = 0
    example_answer: str = ""
    example_columns: list[str] = field(default_factory=list)
    delimiter: str = " "
    separator: str = "\n\n"

    def examples_hash(self, folder: Path) -> str | None:
        return None if self.examples is None else json_hash([data_hash(self.examples, folder), self.shots])

    def prompts(self, records: list[Record], folder: Path, name: str) -> list[str]:
        """Return the whole prompt of each record."""
        before = self.introduction
        if self.examples is not None and self.shots:
            for record in self._examples(folder, self.shots):
                before += self._asked(record, name) + self._answered(record, name) + self.separator
        return [before + self._asked(record, name) for record in records]

    def samples(self, folder: Path, name: str, limit: int | None) -> list[dict[str, str]]:
        """Return the first examples, each as a prompt of its own and what completes it."""
        return [
            {"prompt": self.introduction + self._asked(record, name), "completion": self._answered(record, name)}
            for record in self._examples(folder, limit)
        ]

    def shown_answer(self, record: Record, name: str) -> str:
        """Return an example's answer as it is shown."""
        return render(self.example_answer or self.answer, record, f"{name}: example_answer")

    def _examples(self, folder: Path, limit: int | None) -> list[Record]:
        return read_records(self.examples, folder, self.example_columns or self.columns, limit)

    def _asked(self, record: Record, name: str) -> str:
        return render(self.prompt, record, f"{name}: prompt")

    def _answered(self, record: Record, name: str) -> str:
        return self.delimiter + self.shown_answer(record, name)
