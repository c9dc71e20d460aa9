"""From messages and texts to ids. Only what a chat template writes can be a special token, never what people wrote."""

from __future__ import annotations

from data_pipeline.labels import MARKUP
from data_pipeline.readers.input import Unfit
from data_pipeline.readers.samples import conversation, render_template
from data_pipeline.tokenization.chat import CHAT_TEMPLATE, CHAT_TOKENS
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.serve.errors import bad


def template_of(tokenizer: Tokenizer) -> str | None:
    """Return the chat template: its own, ChatML where it has the tokens, else None, for a model that only continues."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    has = all(tokenizer.backend.token_to_id(name) is not None for name in CHAT_TOKENS)
    return CHAT_TEMPLATE if has else None


def chat_ids(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """Return the ids of a conversation up to where the assistant begins.

    Raises:
        RequestError: the template can't take these messages.
    """
    template = template_of(tokenizer)
    if template is None:
        text = "\n\n".join(message["content"] for message in messages)
        return [tokenizer.end_of_document, *tokenizer.encode(text)]
    try:
        spans = conversation(messages, template)
        before, opened = (render_template(template, messages, opens) for opens in (False, True))
    except Unfit as error:
        raise bad("messages", f"don't fit the model: {error}") from None
    if not opened.startswith(before):
        raise bad("messages", "don't fit the model: its chat template changes them when an answer begins")
    ids: list[int] = []
    for text, label in [*spans, (opened[len(before) :], MARKUP)]:
        ids += tokenizer.encode_markup(text) if label & MARKUP else tokenizer.encode(text)
    return ids


def completion_ids(tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """Return the ids of a text as `headrace generate` continues it, behind the end of a document; ids as they are."""
    return prompt if isinstance(prompt, list) else [tokenizer.end_of_document, *tokenizer.encode(prompt)]
