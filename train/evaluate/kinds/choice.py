"""Multiple choice: the answer that the model finds likeliest, by itself and by its length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from train.evaluate.kinds.prompted import PromptedTask
from train.evaluate.scores import Column, Outcome
from train.generation.records import Record
from train.generation.templates import render
from train.generation.text_model import TextModel


@dataclass
class ChoiceTask(PromptedTask):
    """Answers to choose from.

    Args:
        choices: templates of them.
        choices_field: field that holds them as a list instead.
        index: template of the right one's number, from 0; empty finds the one that equals `answer`.
    """

    choices: list[str] = field(default_factory=list)
    choices_field: str | None = None
    index: str = ""

    def check(self) -> None:
        if bool(self.choices) == bool(self.choices_field):
            raise UserError("a multiple_choice task needs `choices`, or `choices_field` for those of each record")

    def run(self, model: TextModel, records: list[Record], folder: Path, name: str) -> Outcome:
        prompts = self.prompts(records, folder, name)
        choices = [self.choices_of(record, name) for record in records]
        right = [self.right(record, options, name) for record, options in zip(records, choices)]
        pairs = [(prompt, self.delimiter + choice) for prompt, options in zip(prompts, choices) for choice in options]
        scored = iter(model.likelihoods(pairs))
        details, raw, normalised = [], [], []
        for prompt, options, answer in zip(prompts, choices, right):
            nats = [next(scored).nats for _ in options]
            lengths = [max(1, len(option)) for option in options]
            by_length = [nat / length for nat, length in zip(nats, lengths)]
            raw.append(float(_likeliest(nats) == answer))
            normalised.append(float(_likeliest(by_length) == answer))
            details.append({"prompt": prompt, "choices": options, "nats": nats, "right": answer})
        chances = [1 / len(options) for options in choices]
        [(_, most)] = Counter(right).most_common(1)
        return Outcome(
            {
                "accuracy": Column(raw, chances=chances),
                "accuracy_by_character": Column(normalised, chances=chances),
            },
            details,
            more={"majority": most / len(right)},
        )

    def choices_of(self, record: Record, name: str) -> list[str]:
        """Return the choices of a record."""
        if self.choices_field is None:
            return [render(choice, record, f"{name}: choices") for choice in self.choices]
        options = record.get(self.choices_field)
        if not isinstance(options, list) or not options:
            raise UserError(f"{name}: a record's field {self.choices_field} is no list of choices")
        return [str(option) for option in options]

    def right(self, record: Record, options: list[str], name: str) -> int:
        """Return the number of the right choice."""
        if self.index:
            number = render(self.index, record, f"{name}: index").strip()
            if not number.isdecimal() or int(number) >= len(options):
                raise UserError(f"{name}: index gives `{number}`, and choices have the numbers 0 to {len(options) - 1}")
            return int(number)
        answer = render(self.answer, record, f"{name}: answer")
        if answer not in options:
            raise UserError(f"{name}: the answer `{answer}` is none of the choices {', '.join(options)}")
        return options.index(answer)

    def shown_answer(self, record: Record, name: str) -> str:
        if self.example_answer:
            return super().shown_answer(record, name)
        options = self.choices_of(record, name)
        return options[self.right(record, options, name)]


def _likeliest(scores: list[float]) -> int:
    """Return the number of the highest score, the first of equals."""
    return scores.index(max(scores))
