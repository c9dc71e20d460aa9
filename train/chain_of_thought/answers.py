"""The answer within what a model wrote: a number, what follows a phrase, or what a pattern finds."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from data_pipeline.foundation.errors import UserError

NUMBER = re.compile(r"(?<![\d.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
ENDS = " \t\r\n.,;:!?\"'`*$。,;:!?、"
HOW = ("whole", "number", "after", "regex")


@dataclass
class ExtractConfig:
    """Where the answer is in a text.

    Args:
        how: `whole`: the text without spaces around it; `number`: a number; `after`: what follows `phrase` in its line;
            `regex`: the first group of `pattern`, or all of it where it has none.
        which: `last` or `first`, where there are several.
        phrase: of `after`, such as `The answer is`.
        pattern: of `regex`.
        ignore_case: answers that differ in case are the same.
    """

    how: str = "whole"
    which: str = "last"
    phrase: str = ""
    pattern: str = ""
    ignore_case: bool = False


def check_extract(config: ExtractConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.how not in HOW or config.which not in ("last", "first"):
        raise UserError(f"extract takes how: {', '.join(HOW)}, and which: last or first")
    if config.how == "after" and not config.phrase:
        raise UserError("extract.how=after needs extract.phrase, such as `The answer is`")
    if config.how == "regex":
        try:
            if re.compile(config.pattern).groups > 1 or not config.pattern:
                raise UserError("extract.pattern needs one group at most, and must not be empty")
        except re.error as error:
            raise UserError(f"extract.pattern={config.pattern}: {error}") from None


def extract(text: str, config: ExtractConfig) -> str | None:
    """Return the answer in a text in the form in which answers are compared, or None where there is none."""
    if config.how == "number":
        found = NUMBER.findall(_plain_digits(text))
    elif config.how == "after":
        found = [part.partition("\n")[0] for part in text.split(config.phrase)[1:]]
    elif config.how == "regex":
        found = re.findall(config.pattern, text)
    else:
        found = [text]
    if not found:
        return None
    chosen = comparable(found[-1 if config.which == "last" else 0], config)
    return chosen or None


def comparable(answer: str, config: ExtractConfig) -> str:
    """Return an answer so that equal ones are equal texts: numbers by value, texts without what surrounds them.

    The numbers 1,200 and 1200.0 are the same; so are ７ and 7, −3 and -3. A text keeps what it has, but for spaces and
    punctuation at its ends, which a `whole` answer keeps too.
    """
    if config.how == "number":
        return number(answer) or ""
    answer = answer.strip() if config.how in ("whole", "regex") else answer.strip(ENDS)
    return answer.casefold() if config.ignore_case else answer


def number(text: str) -> str | None:
    """Return the value of a number as its shortest text, or None for what is none."""
    try:
        value = Decimal(_plain_digits(text).strip().replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    return format(value.normalize(), "f") if value else "0"


def _plain_digits(text: str) -> str:
    """Return a text with full-width digits as plain ones."""
    return unicodedata.normalize("NFKC", text)
