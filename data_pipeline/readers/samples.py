"""The `samples` corpus: what a model is tuned on. Prompts with their answers, conversations, or answers to choose from.

A sample becomes one document, and spans say of every character whether it is learnt from. A record has one of

- `prompt` and `completion`: the completion is learnt;
- `messages`, each with `role` and `content`: put into words by a chat template, and what the assistant says is learnt;
- of preferences, `prompt`, `chosen` and `rejected`: texts, or messages that follow those of the prompt;
- of problems, `prompt`, a text or messages, and `answer`: what the model's own answer is checked against.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import shown
from data_pipeline.labels import ANSWERS, EXPECTED, LEARNT, MARKUP, PREFERENCES, PROBLEMS, REJECTED
from data_pipeline.readers.document import Document, Unit, Unreadable
from data_pipeline.readers.files import Files
from data_pipeline.readers.formats import format_of
from data_pipeline.readers.input import Input, Item, ReadingConfig, Unfit
from data_pipeline.tokenization.chat import CHAT_TEMPLATE

FORMATS = ("jsonl", "json")
FORMS = {
    ANSWERS: "`prompt` and `completion`, or `messages`",
    PREFERENCES: "`prompt`, `chosen` and `rejected`",
    PROBLEMS: "`prompt` and `answer`",
}
KEYS = {
    ANSWERS: ("prompt", "completion", "messages", "chosen", "rejected"),
    PREFERENCES: ("prompt", "completion", "messages", "chosen", "rejected"),
    PROBLEMS: ("prompt", "answer", "messages", "chosen", "rejected"),
}
"""Fields that make a sample of each kind what it is; whatever else a record has is not looked at."""
Spans = list[tuple[str, int]]


@dataclass
class SamplesConfig(ReadingConfig):
    """Settings of the `samples` corpus.

    Args:
        source: name under which the samples are counted.
        kind: `answers`, `preferences` between two, or `problems` to find the answer of.
        chat_template: how messages become text, in Jinja as Hugging Face tokenizers carry it; that of the tokenizer if
            None, and without one ChatML.
    """

    source: str = "samples"
    kind: str = ANSWERS
    chat_template: str | None = None


class Samples:
    """Samples from one source of files."""

    def __init__(self, config: SamplesConfig):
        self._config = config
        self._files = Files(config, config.source, of_record=sample_of)

    def units(self) -> list[Unit]:
        """Find the files; see `Files.units`. Raises UserError also for other files than of JSON."""
        if self._config.kind not in FORMS:
            raise UserError(f"corpus.kind={self._config.kind}: there are {', '.join(FORMS)}")
        _template(self._config.chat_template or CHAT_TEMPLATE)
        units = self._files.units()
        for location in (piece.location for unit in units for piece in unit.pieces):
            if format_of(location, self._config.format, "corpus") not in FORMATS:
                raise UserError(f"{shown(location)}: samples are read from .jsonl and .json files; make it one of them")
        return units

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        """Yield a unit's samples; see `Files.read`."""
        return self._files.read(unit)

    def weights(self) -> dict[str, float]:
        """Return nothing: one source has no share to take."""
        return {}


def sample_of(file: Input, where: str, record: Any, checked: bool = False) -> Item:
    """Return the document of a record, or why it is none."""
    assert isinstance(file.settings, SamplesConfig)
    try:
        if not isinstance(record, dict):
            raise Unfit("no_sample", f"a sample is an object with {FORMS[file.settings.kind]}")
        spans = _spans(record, file.settings.kind, file.settings.chat_template or CHAT_TEMPLATE)
        if not any(label & (LEARNT | EXPECTED) and text for text, label in spans):
            raise Unfit("nothing_to_learn", "nothing in it is learnt from: the answer is empty, or no assistant speaks")
        if file.settings.kind == PROBLEMS and not spans[0][0]:
            raise Unfit("no_sample", "`prompt` is empty: nothing is asked")
    except Unfit as unfit:
        return file.unfit(where, unfit)
    item = file.text(where, "".join(text for text, _ in spans))
    if isinstance(item, Unreadable):
        return item
    return Document(item.text, item.source, item.key, spans=tuple((len(text), label) for text, label in spans if text))


def _spans(record: dict[str, Any], kind: str, template: str) -> Spans:
    given = {key for key in KEYS[kind] if record.get(key) is not None}
    if kind == ANSWERS and given == {"prompt", "completion"}:
        return [(_text(record, "prompt"), 0), (_text(record, "completion"), LEARNT)]
    if kind == ANSWERS and given == {"messages"}:
        return conversation(_messages(record, "messages"), template)
    if kind == PREFERENCES and given == {"prompt", "chosen", "rejected"}:
        halves = []
        for key, mark in (("chosen", 0), ("rejected", REJECTED)):
            halves += [(text, label | mark) for text, label in _answered(record, key, template)]
        return halves
    if kind == PROBLEMS and given == {"prompt", "answer"}:
        return [*_asked(record, template), (_text(record, "answer"), EXPECTED)]
    found = ", ".join(sorted(map(repr, record))) or "nothing"
    raise Unfit("no_sample", f"a sample of corpus.kind={kind} has {FORMS[kind]}; this one has {found}")


def _asked(record: dict[str, Any], template: str) -> Spans:
    """Return a problem as a model is asked: of messages, up to where the assistant is to speak."""
    if isinstance(record["prompt"], str):
        return [(_text(record, "prompt"), 0)]
    messages = _messages(record, "prompt")
    asked = [(text, label & MARKUP) for text, label in conversation(messages, template)]
    opened, before = _render(template, messages, True), "".join(text for text, _ in asked)
    if not opened.startswith(before):
        raise Unfit("other_template", "the chat template changes what was before when the assistant is to speak")
    return [*asked, (opened[len(before) :], MARKUP)]


def _answered(record: dict[str, Any], key: str, template: str) -> Spans:
    if isinstance(record["prompt"], str):
        return [(_text(record, "prompt"), 0), (_text(record, key), LEARNT)]
    before = _messages(record, "prompt")
    return conversation([*before, *_messages(record, key)], template, learnt_from=len(before))


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise Unfit("no_sample", f"`{key}` must be text")
    try:
        record[key].encode()
    except UnicodeEncodeError:
        raise Unfit("invalid_text", f"`{key}` has half of a surrogate pair, which is no text") from None
    return record[key]


def _messages(record: dict[str, Any], key: str) -> list[dict[str, str]]:
    messages = record[key]
    if not isinstance(messages, list) or not messages:
        raise Unfit("no_sample", f"`{key}` must be a list of messages, each with `role` and `content`")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise Unfit("no_sample", f"every message of `{key}` needs the texts `role` and `content`")
        _text(message, "content")
    return messages


def conversation(messages: Sequence[dict[str, str]], template: str, learnt_from: int = 0) -> Spans:
    """Return messages as text in spans: what the assistant says, with the end of its turn, is learnt.

    What the template writes is marked as markup, in which special tokens count; what people wrote is not: nobody can
    end another's turn by writing the token for it.

    Args:
        learnt_from: number of the first message that is learnt from.

    Raises:
        Unfit: the template can't take these messages, or rewrites earlier ones.
    """
    spans: Spans = []
    before = ""
    for number, message in enumerate(messages):
        learnt = message["role"] == "assistant" and number >= learnt_from
        opened = _render(template, messages[:number], True) if learnt and number else before
        after = _render(template, messages[: number + 1], False)
        if not (opened.startswith(before) and after.startswith(opened)):
            raise Unfit("other_template", f"the chat template changes what was before when message {number} is added")
        spans += [(opened[len(before) :], MARKUP), *_marked(after[len(opened) :], message["content"], learnt, number)]
        before = after
    return [span for span in spans if span[0]]


def _marked(text: str, content: str, learnt: bool, number: int) -> Spans:
    """Divide a message as the template wrote it into what it says and what is around."""
    content = content if content in text else content.strip()
    before, found, after = text.partition(content) if content else (text, "", "")
    if content and not found:
        raise Unfit("other_template", f"the chat template doesn't write the content of message {number} as it is")
    label = LEARNT if learnt else 0
    return [(before, label | MARKUP), (found, label), (after, label | MARKUP)]


def _render(template: str, messages: Sequence[dict[str, str]], opens: bool) -> str:
    import jinja2

    try:
        return _template(template).render(messages=list(messages), add_generation_prompt=opens, bos_token="")
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise Unfit("other_template", f"the chat template can't take its messages: {error}") from None


@functools.lru_cache(maxsize=4)
def _template(source: str) -> Any:
    """Return a chat template, which can't reach anything but what it is given. Raises UserError: it isn't Jinja."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"corpus.chat_template is no Jinja template: {error}") from None
