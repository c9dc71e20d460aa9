"""Finds IP addresses in a text, among the versions, chapters and other numbers with dots that look like them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from data_pipeline.cleaning.number_regions import ABOUT_VERSIONS, matches_in, stands_before

_IPV4 = re.compile(
    r"(?<![\w.-])(?<![\w.]/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])",
    re.ASCII,
)
_IPV6 = re.compile(
    r"(?:[23][0-9A-Fa-f]{3}|[fF][89abcdABCDeE][0-9A-Fa-f]{2})(?<![\w:.]....):[0-9A-Fa-f:]{2,34}(?![\w:]|\.[0-9])",
    re.ASCII,
)
_ABOUT_ADDRESSES = re.compile(
    r"(?:\bip|address|hosts?|server|ping|dns|gateway|route|from|//|@|地址|主机|服务器)[^0-9\n]{0,12}$", re.IGNORECASE
)
_PORT_OR_MASK = re.compile(r":[0-9]{2,5}\b|/[0-9]{1,2}\b")
_BEFORE_COLON = 4
"""Digits of the first group of an IPv6 address that anybody can be reached at."""
_LOW = 40


def find_ip_addresses(text: str, regions: list[tuple[int, int]], private: bool) -> Iterator[tuple[int, int]]:
    """Yield where IP addresses are.

    Four numbers of one digit are taken for a version, or for a server that everybody knows, such as 8.8.8.8; four low
    numbers for a version or a chapter unless something beside says otherwise.

    Args:
        text: to be searched.
        regions: of its numbers.
        private: also those that can't be reached from everywhere: private, local, reserved for documentation.
    """
    wanted = ("global", "private") if private else ("global",)
    for match in matches_in(_IPV4, text, regions):
        reach = _reach(match[0])
        if reach not in wanted or re.fullmatch(r"\d\.\d\.\d\.\d", match[0]):
            continue
        if reach == "global" and max(map(int, match[0].split("."))) < _LOW:
            sure = _PORT_OR_MASK.match(text, match.end()) or stands_before(_ABOUT_ADDRESSES, text, match.start())
        else:
            sure = not stands_before(ABOUT_VERSIONS, text, match.start())
        if sure:
            yield match.span()
    # Found by its first colon: the expression alone would look at every character.
    end, colon = 0, text.find(":", _BEFORE_COLON)
    while colon >= 0:
        start = colon - _BEFORE_COLON
        if start >= end and text[start] in "23fF" and (address := _IPV6.match(text, start)):
            end = address.end()
            if _reach(address[0]) in wanted:
                yield address.span()
        colon = text.find(":", colon + 1)


def _reach(address: str) -> str | None:
    """Return `global` or `private`; None for what is no address, or nobody's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    if found.is_unspecified or found.is_loopback or found.is_multicast:
        return None
    return "global" if found.is_global else "private"
