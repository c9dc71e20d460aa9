"""Requests as OpenAI's API has them, checked: what isn't understood is refused by name, never ignored."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import orjson

from data_pipeline.foundation.configuration import nearest
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.typed import typed
from train.chain_of_thought.answers import ExtractConfig, check_extract
from train.chain_of_thought.strategy import StrategyConfig, load_strategy
from train.serve.errors import RequestError, bad

COMMON = {
    *("model", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "top_k", "max_tokens"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "user"),
}
CHAT = COMMON | {"messages", "max_completion_tokens", "top_logprobs", "strategy", "extract"}
COMPLETION = COMMON | {"prompt", "echo"}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none",), "functions": ([],),
    "function_call": ("none",), "store": (False,), "modalities": (["text"],), "suffix": ("",), "best_of": (1,),
    "service_tier": ("auto", "default"), "metadata": ({},), "parallel_tool_calls": (True, False),
}  # fmt: skip
"""Parameters of OpenAI's that aren't served, with the values that ask for nothing."""
CHOICES, STOPS, LOGPROBS, MESSAGES = 128, 4, 20, 1024
ROLES = ("system", "developer", "user", "assistant")
SEEDS = 1 << 63


@dataclass
class Ask:
    """A request.

    Args:
        messages: of a chat; None of a completion.
        prompts: of a completion, as texts or ids.
        tokens: most to write; None as many as fit.
        logprobs: of how many of the likeliest tokens besides the written one's are wanted; None of none.
        strategy: how a chat is answered; None simply answers.
    """

    model: str
    messages: list[dict[str, str]] | None = None
    prompts: list[str | list[int]] = field(default_factory=list)
    count: int = 1
    seed: int = 0
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    usage: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens: int | None = None
    presence: float = 0.0
    frequency: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    echo: bool = False
    strategy: StrategyConfig | None = None
    extract: ExtractConfig | None = None


def read_body(body: bytes) -> dict[str, Any]:
    """Return a request's object; what is null in it is as if left out. Raises RequestError."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_json")
    return {key: value for key, value in content.items() if value is not None}


def parse(body: dict[str, Any], chat: bool, model: str, vocabulary: int) -> Ask:
    """Return a checked request.

    Args:
        model: name of the one that is served.
        vocabulary: its ids are below.

    Raises:
        RequestError: whatever is wrong, by the name of the parameter.
    """
    refuse_unknown(body, CHAT if chat else COMPLETION)
    if not isinstance(body.get("model"), str):
        raise bad("model", "is required, a text")
    if body["model"] != model:
        message = f"there is no model `{body['model']}` here; it serves `{model}`"
        raise RequestError(404, message, "model", "model_not_found")
    ask = Ask(
        model=model,
        count=integer(body, "n", 1, 1, CHOICES),
        seed=integer(body, "seed", secrets.randbelow(1 << 31), -SEEDS, SEEDS - CHOICES * 2048),
        stop=stops(body.get("stop", [])),
        stream=boolean(body, "stream"),
        temperature=number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=number(body, "top_p", 1.0, 0.0, 1.0),
        top_k=integer(body, "top_k", 0, 0, 1 << 31),
        presence=number(body, "presence_penalty", 0.0, -2.0, 2.0),
        frequency=number(body, "frequency_penalty", 0.0, -2.0, 2.0),
        bias=biases(body.get("logit_bias", {}), vocabulary),
    )
    ask.top_p = ask.top_p or 1e-9  # 0 leaves the likeliest token alone
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"} or (options and not ask.stream):
        raise bad("stream_options", "takes include_usage alone, where `stream` is true")
    ask.usage = boolean(options, "include_usage")
    if not isinstance(body.get("user", ""), str):
        raise bad("user", "must be a text")
    if chat:
        of_chat(body, ask)
    else:
        of_completion(body, ask, vocabulary)
    return ask


def refuse_unknown(body: dict[str, Any], known: set[str]) -> None:
    for key, value in body.items():
        if key in known:
            continue
        if key in NEUTRAL:
            if value in NEUTRAL[key]:
                continue
            raise bad(key, "is not supported here", "unsupported_parameter")
        raise bad(key[:100], f"is no parameter of this endpoint.{nearest(key, sorted(known))}", "unknown_parameter")


def of_chat(body: dict[str, Any], ask: Ask) -> None:
    ask.messages = messages_of(body.get("messages"))
    limits = [key for key in ("max_completion_tokens", "max_tokens") if key in body]
    if len(limits) == 2 and body[limits[0]] != body[limits[1]]:
        raise bad("max_tokens", "and `max_completion_tokens` say two different things")
    if limits:
        ask.tokens = integer(body, limits[0], 1, 1, 1 << 31)
    top = integer(body, "top_logprobs", 0, 0, LOGPROBS)
    if boolean(body, "logprobs"):
        ask.logprobs = top
    elif "top_logprobs" in body and top:
        raise bad("top_logprobs", "needs `logprobs`: true")
    try:
        if "strategy" in body:
            if not isinstance(body["strategy"], str | dict):
                raise UserError("takes the name of an option, or an object of settings")
            if isinstance(body["strategy"], dict) and "examples" in body["strategy"]:
                raise UserError("names no files of the server's: put examples into the messages")
            ask.strategy = load_strategy(body["strategy"])
            if ask.strategy.samples > CHOICES:
                raise UserError(f"takes at most {CHOICES} samples")
        if "extract" in body:
            ask.extract = typed(
                ExtractConfig, {"": None} if not isinstance(body["extract"], dict) else body["extract"], "extract"
            )
            check_extract(ask.extract)
    except UserError as error:
        raise bad("strategy" if "strategy" in body and ask.strategy is None else "extract", f": {error}") from None


def of_completion(body: dict[str, Any], ask: Ask, vocabulary: int) -> None:
    ask.prompts = prompts_of(body.get("prompt", ""), vocabulary)
    ask.echo = boolean(body, "echo")
    ask.tokens = integer(body, "max_tokens", 16, 0 if ask.echo else 1, 1 << 31)
    if "logprobs" in body:
        ask.logprobs = integer(body, "logprobs", 0, 0, LOGPROBS)
    if ask.count * len(ask.prompts) > CHOICES:
        raise bad("prompt", f"and `n` make more than {CHOICES} choices")


def messages_of(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise bad("messages", "must be a list of at least one message")
    if len(value) > MESSAGES:
        raise bad("messages", f"has more than {MESSAGES} messages")
    messages = []
    for number_, message in enumerate(value):
        where = f"messages[{number_}]"
        if not isinstance(message, dict):
            raise bad(where, "must be an object with `role` and `content`")
        if unknown := [key for key in message if key not in ("role", "content", "name", "reasoning_content", "refusal")
                       and message[key] not in (None, [])]:  # fmt: skip
            raise bad(f"{where}.{unknown[0][:100]}", "is not supported here", "unsupported_parameter")
        if message.get("role") not in ROLES:
            raise bad(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        role = "system" if message["role"] == "developer" else message["role"]
        messages.append({"role": role, "content": content_of(message.get("content"), f"{where}.content")})
    return messages


def content_of(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise bad(where, "takes parts of type `text` alone: this model reads no images, sounds or files")
        return "".join(part["text"] for part in content)
    raise bad(where, "must be a text, or a list of parts of type `text`")


def prompts_of(value: Any, vocabulary: int) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return list(value)
        one = all(is_integer(item) for item in value)
        lists = [value] if one else value
        if all(isinstance(ids, list) and ids and all(map(is_integer, ids)) for ids in lists):
            if all(0 <= token < vocabulary for ids in lists for token in ids):
                return list(lists)
            raise bad("prompt", f"has a token that the model hasn't: ids are from 0 to {vocabulary - 1}")
    raise bad("prompt", "must be a text, a list of texts, a list of token ids, or a list of such lists")


def stops(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, list)
        or len(texts) > STOPS
        or not all(isinstance(t, str) and 0 < len(t) <= 1000 for t in texts)
    ):
        raise bad("stop", f"must be a text, or a list of at most {STOPS}, none of them empty or longer than 1000")
    return texts


def biases(value: Any, vocabulary: int) -> dict[int, float]:
    if not isinstance(value, dict) or len(value) > 1024:
        raise bad("logit_bias", "must be an object of at most 1024 token ids with a number each")
    found = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary):
            raise bad("logit_bias", f"has `{key[:100]}`, which is no token id below {vocabulary}")
        found[int(key)] = number({"logit_bias": bias}, "logit_bias", 0.0, -100.0, 100.0)
    return found


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(body: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = body.get(key, default)
    if not is_integer(value) or not least <= value <= most:
        raise bad(key, f"must be a whole number from {least} to {most}")
    return value


def number(body: dict[str, Any], key: str, default: float, least: float, most: float) -> float:
    value = body.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise bad(key, f"must be a number from {least:g} to {most:g}")
    return float(value)


def boolean(body: dict[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise bad(key, "must be true or false")
    return value
