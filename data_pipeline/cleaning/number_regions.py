"""Where in a text numbers are that are long enough to be somebody's, and what stands before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REGION = re.compile(r"[0-9](?:[ ().（）/-]{0,3}[0-9]){6,}+|[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_APART = 4
"""A digit of a region is at most so many characters behind the one before it."""
_FEWEST = 4
"""Digits in a region."""


Codes = NDArray[np.unsignedinteger[Any]]


def number_regions(text: str, codes: Codes) -> list[tuple[int, int]]:
    """Return where seven digits or more stand hardly apart, or four numbers with dots: a cheap first look.

    Args:
        codes: of the text, by `code_points`.
    """
    digits = np.flatnonzero(are_from("0", 10, codes))
    # The expression is asked only where it can match: on the whole text it would look at every character.
    borders = np.flatnonzero(np.diff(digits) > _APART) + 1
    first, last = np.append(0, borders), np.append(borders, len(digits))
    many = last - first >= _FEWEST
    starts, stops = digits[first[many]].tolist(), (digits[last[many] - 1] + 1).tolist()
    return [match.span() for start, stop in zip(starts, stops) for match in _REGION.finditer(text, start, stop)]


def code_points(text: str) -> Codes:
    """Return the characters of a text as numbers."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def are_from(first: str, count: int, codes: Codes) -> NDArray[np.bool_]:
    """Return which characters are among so many that follow one another in Unicode, such as the ten digits."""
    return codes - codes.dtype.type(ord(first)) < count


def matches_in(pattern: re.Pattern[str], text: str, regions: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern in some regions; it sees what is before them, and two characters after."""
    for start, stop in regions:
        yield from pattern.finditer(text, max(start - 3, 0), stop + 2)


def stands_before(pattern: re.Pattern[str], text: str, place: int) -> bool:
    """Say whether the forty characters before a place end with a pattern, which itself ends with `$`."""
    return pattern.search(text, max(place - 40, 0), place) is not None


ABOUT_VERSIONS = re.compile(
    r"(?:\bv|\bver|versions?|release|build|kernel|firmware|driver|oid|section|chapter|§|版本|固件|驱动|章节|第)[^0-9\n]{0,6}$",
    re.IGNORECASE,
)
"""What stands before numbers with dots that are nobody's."""
