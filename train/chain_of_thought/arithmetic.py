"""The exact value of an arithmetic expression. Nothing of it is run: it is read by a grammar that knows only numbers.

sum     = product, then any number of + or - and a product
product = factor, then any number of * or / and a factor
factor  = a number, a sum in parentheses, or a factor behind + or -
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MOST_CHARACTERS = 1000
DEEPEST = 50
SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}
TOKEN = re.compile(r"\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+)|(.))", re.DOTALL)


def value_of(expression: str) -> Fraction | None:
    """Return the value of an expression of numbers, + − × ÷ and parentheses, exactly; None where it is none.

    None are also a division by zero, and what is longer or nested deeper than anybody writes by hand.
    """
    text = "".join(SIGNS.get(character, character) for character in unicodedata.normalize("NFKC", expression)).strip()
    if len(text) > MOST_CHARACTERS:
        return None
    tokens = [(number.replace(",", ""), sign) for number, sign in TOKEN.findall(text)]
    try:
        reader = _Reader(tokens)
        value = reader.sum(0)
        return value if reader.at == len(tokens) else None
    except (ValueError, ZeroDivisionError):
        return None


class _Reader:
    """Reads tokens from left to right; each method returns the value of what it has read, or raises ValueError."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens, self.at = tokens, 0

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while sign := self._take("+-"):
            value += self._product(depth) * (1 if sign == "+" else -1)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while sign := self._take("*/"):
            factor = self._factor(depth)
            value = value * factor if sign == "*" else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        if sign := self._take("+-"):
            return self._factor(depth + 1) * (1 if sign == "+" else -1)
        if self._take("("):
            value = self.sum(depth + 1)
            if not self._take(")"):
                raise ValueError("a parenthesis isn't closed")
            return value
        if self.at == len(self.tokens) or not self.tokens[self.at][0]:
            raise ValueError("a number is missing")
        self.at += 1
        return Fraction(self.tokens[self.at - 1][0])

    def _take(self, signs: str) -> str:
        """Return the next token if it is one of the signs, and go on behind it; otherwise nothing."""
        if self.at < len(self.tokens) and self.tokens[self.at][1] and self.tokens[self.at][1] in signs:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return ""
