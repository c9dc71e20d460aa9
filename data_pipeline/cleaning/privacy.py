"""Masks what would let a reader find or rob somebody: addresses, numbers, keys and passwords become placeholders."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from data_pipeline.cleaning.credentials import find_keys, find_passwords
from data_pipeline.cleaning.ip_addresses import find_ip_addresses
from data_pipeline.cleaning.number_regions import code_points, number_regions
from data_pipeline.cleaning.personal_numbers import (
    find_cards,
    find_ibans,
    find_resident_ids,
    find_social_security_numbers,
)
from data_pipeline.cleaning.stage import Kept, SingleStage
from data_pipeline.cleaning.telephones import find_phones
from data_pipeline.readers.document import Document


@dataclass
class Placeholders:
    """What each kind is replaced by; None leaves it.

    Args:
        email: mail addresses.
        phone: telephone and fax numbers.
        ip_address: IPv4 and IPv6 addresses.
        resident_id: Chinese resident identity numbers.
        social_security_number: of the United States.
        iban: international bank account numbers.
        card: numbers of payment cards.
        key: keys and tokens of services, JSON Web Tokens, private keys.
        password: values assigned to names such as password, secret or token.
    """

    email: str | None = "[EMAIL]"
    phone: str | None = "[PHONE]"
    ip_address: str | None = "[IP_ADDRESS]"
    resident_id: str | None = "[RESIDENT_ID]"
    social_security_number: str | None = "[SOCIAL_SECURITY_NUMBER]"
    iban: str | None = "[IBAN]"
    card: str | None = "[CARD]"
    key: str | None = "[KEY]"
    password: str | None = "[PASSWORD]"


@dataclass
class PrivacyConfig:
    """Settings of masking.

    Args:
        enabled: mask.
        placeholders: what each kind becomes.
        private_addresses: mask also IP addresses that can't be reached from everywhere, such as 192.168.0.1.
    """

    enabled: bool = False
    placeholders: Placeholders = field(default_factory=Placeholders)
    private_addresses: bool = False


class Privacy(SingleStage):
    """Masks every document; drops none. Changes are counted by kind."""

    def __init__(self, config: PrivacyConfig):
        self._config = config

    def apply(self, document: Document) -> Kept:
        text, counts = mask(document.text, self._config)
        return Kept(replace(document, text=text) if counts else document, counts)


def mask(text: str, config: PrivacyConfig | None = None) -> tuple[str, dict[str, int]]:
    """Replace what is private by placeholders.

    Args:
        text: any.
        config: the default settings if None; `enabled` has no meaning here.

    Returns:
        The masked text, and how much of each kind was masked.
    """
    config = config or PrivacyConfig()
    placeholders = {kind: mark for kind, mark in vars(config.placeholders).items() if mark is not None}
    taken: list[tuple[int, int, str]] = []
    for kind, spans in _find(text, config.private_addresses):
        if kind not in placeholders:
            continue
        for start, stop in spans:
            place = bisect_left(taken, (start,))
            free_before = place == 0 or taken[place - 1][1] <= start
            if free_before and (place == len(taken) or stop <= taken[place][0]):
                taken.insert(place, (start, stop, kind))
    if not taken:
        return text, {}
    parts, end = [], 0
    for start, stop, kind in taken:
        parts += [text[end:start], placeholders[kind]]
        end = stop
    parts.append(text[end:])
    return "".join(parts), dict(sorted(Counter(kind for _, _, kind in taken).items()))


def _find(text: str, private: bool) -> Iterator[tuple[str, Iterator[tuple[int, int]]]]:
    """Yield the kinds with where they are. Of what overlaps the first stays, so that what is surest comes first."""
    yield "key", find_keys(text)
    yield "password", find_passwords(text)
    yield "email", find_emails(text)
    codes = code_points(text)
    yield "iban", find_ibans(text, codes)
    regions = number_regions(text, codes)
    yield "resident_id", find_resident_ids(text, regions)
    yield "card", find_cards(text, regions)
    yield "social_security_number", find_social_security_numbers(text, regions)
    yield "ip_address", find_ip_addresses(text, regions, private)
    yield "phone", find_phones(text, regions)


_LOCAL = re.compile(r"[A-Za-z0-9_%+](?:[A-Za-z0-9_%+'.-]*[A-Za-z0-9_%+-])?\Z")
_DOMAIN = re.compile(
    r"@((?:[A-Za-z0-9\u00df-\u024f](?:[A-Za-z0-9\u00df-\u024f-]{0,61}[A-Za-z0-9\u00df-\u024f])?\.){1,8})"
    r"([A-Za-z]{2,24})(?![A-Za-z0-9_-])"
)
_IN_URL = re.compile(r"://[^\s/@]*\Z")
_LONGEST_LOCAL = 64
_NO_DOMAINS = frozenset(
    "png jpg jpeg gif svg webp bmp ico css scss js jsx tsx mjs json yaml yml toml xml html htm php txt pdf csv exe dll"
    " jar whl gz zip conf cfg ini log service socket timer target mount automount slice scope path device swap local"
    " lan localdomain internal example test invalid localhost".split()
)
"""Endings of files, of units of systemd, of names that only have a meaning at home."""


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Yield where mail addresses are; `git@host`, versions of packages and names of files with an @ are none."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at)
        if domain:
            local = _LOCAL.search(text, max(at - _LONGEST_LOCAL, 0), at)
            if local and _is_address(text, local[0], domain):
                yield local.start(), domain.end()
        at = text.find("@", at + 1)


def _is_address(text: str, local: str, domain: re.Match[str]) -> bool:
    if domain[2].lower() in _NO_DOMAINS or re.match(r"\d+x\.", domain[1]):
        return False
    if _IN_URL.search(text, max(domain.start() - 2 * _LONGEST_LOCAL, 0), domain.start()):
        return False
    return not (local in ("git", "hg", "svn") and text[domain.end() : domain.end() + 1] in (":", "/"))
