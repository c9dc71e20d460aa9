"""Where in a text numbers are that are long enough to be somebody's, and what stands before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_REGION = re.compile(r"[0-9](?:[ ().（）/-]{0,3}[0-9]){6,}+|[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def number_regions(text: str) -> list[tuple[int, int]]:
    """Return where seven digits or more stand hardly apart, or four numbers with dots: a cheap first look."""
    return [match.span() for match in _REGION.finditer(text)]


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
