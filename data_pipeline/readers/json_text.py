"""The text of a JSON record: what is at the text field, however deep, checked to be text."""

from __future__ import annotations

import json
from typing import Any

from data_pipeline.readers.input import Input, Item, Unfit


def parse(content: bytes) -> tuple[Any, bool]:
    """Return the value of one JSON text, and whether its strings are known to be free of lone surrogates.

    orjson is several times faster than the standard library, and stricter. What it refuses, such as NaN, is for the
    standard library to judge, whose messages also say where the mistake is.

    Raises:
        Unfit: it is not JSON, or not UTF-8.
    """
    import orjson

    try:
        return orjson.loads(content), True
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content), False
    except UnicodeDecodeError as error:
        raise Unfit("invalid_text", f"invalid UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason})") from None
    except RecursionError:
        raise Unfit("invalid_json", "not a line of JSON: it is nested too deep") from None
    except ValueError as error:
        raise Unfit("invalid_json", f"not a line of JSON: {error}") from None


def record(file: Input, where: str, value: Any, checked: bool = False) -> Item:
    """Return the document of a record.

    Args:
        file: that it is in.
        where: in the file.
        value: the record as parsed.
        checked: its strings have no lone surrogates.
    """
    name = file.settings.text_field
    try:
        text = _field(file, value, name)
        if not isinstance(text, str):
            raise Unfit("no_text", f"`{name}` is a {_kind(text)}, not text")
        if not checked:
            _check(name, text)
    except Unfit as unfit:
        return file.unfit(where, unfit)
    return file.text(where, text, file.settings.markup)


def _field(file: Input, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise Unfit("no_text", f"it holds a {_kind(value)}, not an object")
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    if dot and isinstance(value.get(head), dict):
        return _field(file, value[head], rest)
    raise Unfit("no_text", f"there is no field `{name}` among {file.names_of(list(value))}")


def _check(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if 0xDC80 <= ord(text[error.start]) <= 0xDCFF:  # which stands for a byte where the whole file is one JSON text
            raise Unfit("invalid_text", f"`{name}` has invalid UTF-8, or half of a surrogate pair") from None
        raise Unfit("invalid_text", f"`{name}` has half of a surrogate pair, which is no text") from None


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
