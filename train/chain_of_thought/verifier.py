"""Whether what a model wrote is right: rewards that can be checked, for learning by them and for keeping what is right.

What a model writes is only ever read. A program that it writes is text like any other, and is never run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_pipeline.foundation.errors import UserError
from train.chain_of_thought.answers import ExtractConfig, check_extract, comparable, extract
from train.chain_of_thought.arithmetic import value_of

KINDS = ANSWER, PATTERN, ARITHMETIC = ("answer", "pattern", "arithmetic")


@dataclass(frozen=True)
class Verifier:
    """Holds the answer in a text against the one that is expected.

    Args:
        kind: `answer`: it is the expected one, numbers by value where they are extracted as numbers; `pattern`: the
            expected one is a regular expression, which matches all of it; `arithmetic`: both are arithmetic
            expressions, and of the same value.
        extract: where the answer is in the text.
    """

    kind: str
    extract: ExtractConfig

    def accepts(self, text: str, expected: str) -> bool:
        """Tell whether a text has the expected answer; see `is_right`."""
        return self.is_right(extract(text, self.extract), expected)

    def is_right(self, found: str | None, expected: str) -> bool:
        """Tell whether the answer that was found in a text is the expected one.

        Raises:
            UserError: the expected answer is no regular expression, or no arithmetic expression, and should be.
        """
        if self.kind == ANSWER:
            return found is not None and found == comparable(expected, self.extract)
        if self.kind == PATTERN:
            try:
                pattern = re.compile(expected)
            except re.error as error:
                raise UserError(
                    f"verifier=pattern: the answer {expected!r} is no regular expression: {error}"
                ) from None
            return found is not None and pattern.fullmatch(found) is not None
        value = value_of(expected)
        if value is None:
            raise UserError(f"verifier=arithmetic: the answer {expected!r} is no arithmetic expression of numbers")
        return found is not None and value_of(found) == value


def check_verifier(kind: str, extract: ExtractConfig, key: str = "verifier") -> None:
    """Raise UserError for a verifier that there isn't, or one that can't find an answer.

    Args:
        key: of the setting, for messages.
    """
    if kind not in KINDS:
        raise UserError(f"{key}={kind}: there are {', '.join(KINDS)}; programs are never run")
    check_extract(extract)
