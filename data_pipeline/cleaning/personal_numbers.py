"""Finds numbers of persons in a text that carry a proof in themselves: identity numbers, cards, bank accounts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

import numpy as np

from data_pipeline.cleaning.number_regions import Codes, are_from, matches_in, stands_before

_RESIDENT_ID = re.compile(r"(?<![0-9A-Za-z])[1-8][0-9]{5}[ -]?[0-9]{8}[ -]?[0-9]{3}[0-9Xx](?![0-9A-Za-z])")
_PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54".split()
) | frozenset("61 62 63 64 65 71 81 82 83".split())


def find_resident_ids(text: str, regions: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield where Chinese resident identity numbers are (GB 11643-1999), with or without spaces or hyphens."""
    for match in matches_in(_RESIDENT_ID, text, regions):
        if is_resident_id(re.sub("[ -]", "", match[0])):
            yield match.span()


def is_resident_id(number: str) -> bool:
    """Check 18 characters: the province, the date of birth, and the checksum of ISO 7064, MOD 11-2."""
    if number[:2] not in _PROVINCES or not 1850 <= int(number[6:10]) <= 2100:
        return False
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


_SOCIAL_SECURITY = re.compile(
    r"(?<![\w./-])(?!000|666|9)[0-9]{3}(?P<separator>[ -]?)(?!00)[0-9]{2}(?P=separator)(?!0000)[0-9]{4}"
    r"(?![\w-]|[./][0-9])",
    re.ASCII,
)
_ABOUT_SOCIAL_SECURITY = re.compile(r"(?:\bSSN|social security)[^0-9\n]{0,24}$", re.IGNORECASE)


def find_social_security_numbers(text: str, regions: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield where US social security numbers are: with hyphens, or otherwise where the text says that they are."""
    for match in matches_in(_SOCIAL_SECURITY, text, regions):
        if match["separator"] == "-" or stands_before(_ABOUT_SOCIAL_SECURITY, text, match.start()):
            yield match.span()


_CARD = re.compile(
    r"(?<![\w.+/-])(?:[0-9]{13,19}"
    r"|[0-9]{4}(?P<four>[ -])[0-9]{4}(?P=four)[0-9]{4}(?P=four)[0-9]{1,4}(?:(?P=four)[0-9]{1,3})?"
    r"|[0-9]{4}(?P<six>[ -])[0-9]{6}(?P=six)[0-9]{4,5})(?![\w-]|\.[0-9])",
    re.ASCII,
)
_ABOUT_CARDS = re.compile(
    r"(?:card|visa|master|amex|maestro|unionpay|\bcc\b|账号|帐号|賬號|卡号|卡號|银行卡|信用卡)[^0-9\n]{0,24}$",
    re.IGNORECASE,
)
_ISSUERS: tuple[tuple[str, frozenset[int]], ...] = (
    (r"4", frozenset({13, 16, 19})),  # Visa
    (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", frozenset({16})),  # Mastercard
    (r"3[47]", frozenset({15})),  # American Express
    (r"6011|64[4-9]|65", frozenset({16, 19})),  # Discover
    (r"35(?:2[89]|[3-8])", frozenset({16, 19})),  # JCB
    (r"30[0-59]|3[689]", frozenset({14, 16})),  # Diners Club
    (r"62|81", frozenset({16, 17, 18, 19})),  # UnionPay
    (r"220[0-4]", frozenset({16})),  # Mir
    (r"50(?:18|20|38)|5893|6304|6759|676[1-3]", frozenset({13, 16, 18, 19})),  # Maestro
)
_SURE_LENGTHS = (15, 16)


def find_cards(text: str, regions: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield where numbers of payment cards are. Those of rare lengths only where grouped or called so."""
    for match in matches_in(_CARD, text, regions):
        digits = re.sub("[ -]", "", match[0])
        grouped = len(digits) < len(match[0])
        if is_card(digits) and (
            grouped or len(digits) in _SURE_LENGTHS or stands_before(_ABOUT_CARDS, text, match.start())
        ):
            yield match.span()


def is_card(digits: str) -> bool:
    """Check the issuer, its lengths, and Luhn's checksum (ISO/IEC 7812)."""
    if len(set(digits)) < 2:
        return False
    if not any(len(digits) in lengths and re.match(prefix, digits) for prefix, lengths in _ISSUERS):
        return False
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


_IBAN = re.compile(r"[A-Z]{2}(?<![0-9A-Za-z]..)[0-9]{2}(?: ?[0-9A-Z]){11,30}")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def find_ibans(text: str, codes: Codes) -> Iterator[tuple[int, int]]:
    """Yield where international bank account numbers are (ISO 13616), in one or in groups of four.

    Args:
        codes: of the text, by `code_points`.
    """
    end = 0
    for start in _iban_starts(codes):
        match = _IBAN.match(text, start) if start >= end else None
        if match is None:
            continue
        end = match.end()
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        places = [place for place in range(*match.span()) if text[place] != " "][:length]
        if not places or len(places) < length or text[places[-1] + 1 : places[-1] + 2].isalnum():
            continue
        if is_iban("".join(text[place] for place in places)):
            yield match.start(), places[-1] + 1


def _iban_starts(codes: Codes) -> list[int]:
    """Return where two capitals and two digits stand: an expression would look at every character for it."""
    capitals, digits = are_from("A", 26, codes), are_from("0", 10, codes)
    starts = capitals[:-3] & capitals[1:-2] & digits[2:-1] & digits[3:]
    return np.flatnonzero(starts).tolist()


def is_iban(number: str) -> bool:
    """Check the checksum of ISO 7064, MOD 97-10."""
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1
