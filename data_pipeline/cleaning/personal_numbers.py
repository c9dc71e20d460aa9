"""Finds numbers that belong to a person in a text: telephones, cards, bank accounts, identity numbers, IP addresses.

What can be checked is: checksums, dates, ranges of issuers, and the numbering plans of countries, for which
`phonenumbers`, a port of Google's libphonenumber, is asked. Where a number alone proves little, the words beside it
have to say what it is.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]

_REGION = re.compile(r"[0-9](?:[ ().（）/-]{0,3}[0-9]){6,}+|[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
"""Seven digits or more, hardly apart, or four numbers with dots: only there the patterns below are tried."""


def regions(text: str) -> list[Span]:
    """Return where numbers are that are long enough for this module, but for `find_ibans` and IPv6 addresses."""
    return [match.span() for match in _REGION.finditer(text)]


def _matches(pattern: re.Pattern[str], text: str, places: list[Span]) -> Iterator[re.Match[str]]:
    for start, stop in places:
        yield from pattern.finditer(text, max(start - 3, 0), stop + 2)


# Identity numbers

_RESIDENT_ID = re.compile(r"(?<![0-9A-Za-z])[1-8][0-9]{5}[ -]?[0-9]{8}[ -]?[0-9]{3}[0-9Xx](?![0-9A-Za-z])")
_PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54".split()
) | frozenset("61 62 63 64 65 71 81 82 83".split())


def find_resident_ids(text: str, places: list[Span]) -> Iterator[Span]:
    """Yield where Chinese resident identity numbers are (GB 11643-1999), with or without spaces or hyphens."""
    for match in _matches(_RESIDENT_ID, text, places):
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


def find_social_security_numbers(text: str, places: list[Span]) -> Iterator[Span]:
    """Yield where US social security numbers are: with hyphens, or otherwise where the text says that they are."""
    for match in _matches(_SOCIAL_SECURITY, text, places):
        if match["separator"] == "-" or _before(_ABOUT_SOCIAL_SECURITY, text, match.start()):
            yield match.span()


# Cards and bank accounts

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


def find_cards(text: str, places: list[Span]) -> Iterator[Span]:
    """Yield where numbers of payment cards are. Those of rare lengths only where grouped or called so."""
    for match in _matches(_CARD, text, places):
        digits = re.sub("[ -]", "", match[0])
        grouped = len(digits) < len(match[0])
        if is_card(digits) and (grouped or len(digits) in _SURE_LENGTHS or _before(_ABOUT_CARDS, text, match.start())):
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
    length: frozenset(countries.split())
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
}


def find_ibans(text: str) -> Iterator[Span]:
    """Yield where international bank account numbers are (ISO 13616), in one or in groups of four."""
    for match in _IBAN.finditer(text):
        length = next((length for length, countries in _IBAN_LENGTHS.items() if match[0][:2] in countries), None)
        if length is None:
            continue
        places = [place for place in range(*match.span()) if text[place] != " "][:length]
        stop = places[-1] + 1
        number = "".join(text[place] for place in places)
        if len(number) == length and not text[stop : stop + 1].isalnum() and is_iban(number):
            yield match.start(), stop


def is_iban(number: str) -> bool:
    """Check the checksum of ISO 7064, MOD 97-10."""
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


# IP addresses

_IPV4 = re.compile(
    r"(?<![\w.-])(?<![\w.]/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])",
    re.ASCII,
)
_IPV6 = re.compile(
    r"(?:[23][0-9A-Fa-f]{3}|[fF][89abcdABCDeE][0-9A-Fa-f]{2})(?<![\w:.]....):[0-9A-Fa-f:]{2,34}(?![\w:]|\.[0-9])",
    re.ASCII,
)
_ABOUT_VERSIONS = re.compile(
    r"(?:\bv|\bver|versions?|release|build|kernel|firmware|driver|oid|section|chapter|§|版本|固件|驱动|章节|第)[^0-9\n]{0,6}$",
    re.IGNORECASE,
)
_ABOUT_ADDRESSES = re.compile(
    r"(?:\bip|address|hosts?|server|ping|dns|gateway|route|from|//|@|地址|主机|服务器)[^0-9\n]{0,12}$", re.IGNORECASE
)
_PORT_OR_MASK = re.compile(r":[0-9]{2,5}\b|/[0-9]{1,2}\b")
_LOW = 40


def find_ip_addresses(text: str, places: list[Span], private: bool) -> Iterator[Span]:
    """Yield where IP addresses are.

    Four numbers of one digit are taken for a version, or for a server that everybody knows, such as 8.8.8.8; four low
    numbers for a version or a chapter unless something beside says otherwise.

    Args:
        text: to be searched.
        places: its regions.
        private: also those that can't be reached from everywhere: private, local, reserved for documentation.
    """
    for match in _matches(_IPV4, text, places):
        numbers = match[0].split(".")
        if max(map(int, numbers)) > 255 or all(len(number) == 1 for number in numbers):
            continue
        if max(map(int, numbers)) < _LOW and _is_global(match[0]):
            sure = _PORT_OR_MASK.match(text, match.end()) or _before(_ABOUT_ADDRESSES, text, match.start())
        else:
            sure = not _before(_ABOUT_VERSIONS, text, match.start())
        if sure and (_is_global(match[0]) or (private and _is_private(match[0]))):
            yield match.span()
    for match in _IPV6.finditer(text):
        if _is_global(match[0]) or (private and _is_private(match[0])):
            yield match.span()


def _is_global(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast


def _is_private(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_private and not (found.is_unspecified or found.is_loopback)


# Telephones

_START = r"(?<![0-9A-Za-z_.+/#$¥￥-])"
_END = r"(?![0-9A-Za-z_]|-[0-9A-Za-z]|\.[0-9])"
_FURTHER = r"(?:[ ().（）/-]{0,3}[0-9])"
_INTERNATIONAL = re.compile(rf"(?:(?<![0-9A-Za-z_+)\]])\+ ?\(?|{_START}00(?=[1-9]))[1-9]{_FURTHER}{{7,14}}{_END}")
_NORTH_AMERICAN = re.compile(
    rf"{_START}(?:1[ .-])?(?:\([2-9][0-9]{{2}}\) ?-?|[2-9][0-9]{{2}}(?P<dash>[.-]))"
    rf"[0-9]{{3}}(?(dash)(?P=dash)|[ .-])[0-9]{{4}}{_END}"
)
_CHINESE = re.compile(
    rf"{_START}(?:0[1-9][0-9]{{1,2}}-[2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}"
    rf"|[(（]0[1-9][0-9]{{1,2}}[)）][ -]?[2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}"
    rf"|(?:86-)?1[3-9][0-9]-[0-9]{{4}}-[0-9]{{4}}|400-(?:[0-9]{{3}}-?[0-9]{{4}}|[0-9]{{4}}-?[0-9]{{3}})){_END}"
)
_CHINESE_BARE = re.compile(
    rf"{_START}(?:(?:86[ -]?)?1[3-9][0-9](?P<gap> ?)[0-9]{{4}}(?P=gap)[0-9]{{4}}"
    rf"|0[1-9][0-9]{{1,2}} [2-8][0-9]{{2,3}} ?[0-9]{{4}}){_END}"
)
_CALLED = re.compile(rf"{_START}[(（]?[0-9]{_FURTHER}{{6,13}}{_END}")
_ABOUT_PHONES = re.compile(
    r"(?:\b(?:tele)?(?:phone|fax)|\bt[eé]l(?:[eé](?:f[oó]n[eo]?|phone))?"
    r"|\bmob(?:ile)?|\bcell(?:phone)?|\bwhats ?app|\bhotline|\bph(?=[.:])"
    r"|电话|電話|手机|手機|传真|傳真|热线|熱線|座机|联系方式|聯絡)"
    r"[\"']?(?: ?(?:no\.?|number|nr\.?|is|号码|號碼|号|是|为)){0,2}[\s.:：=|>\"'（(]{0,6}$",
    re.IGNORECASE,
)
_ABOUT_CALLING = re.compile(
    r"(?:\b(?:call|text|dial|ring|reach|contact) (?:\w+ ){0,2}|联系|聯繫|拨打|撥打|致电|致電|咨询|短信|微信|客服)"
    r"[^0-9\n]{0,12}$",
    re.IGNORECASE,
)
_HAN = re.compile("[\u4e00-\u9fff]")
_QUANTITY_BEFORE = re.compile(
    r"(?:[=<>≈*×^~]|编号|編號|单号|單號|序列号|学号|工号|订单|时间戳|端口|大小|数量|金额|共计?|[约近达至第]|ID|id|QQ|qq|群)[号]?[\s:：=为是]{0,3}$"
)
_QUANTITY_AFTER = re.compile(
    r"[ ]?(?:[元块块位次人个個条條万亿年月秒行字件股吨%％]|美元|字节|位元|毫秒|[KMGT]?i?B\b|bytes?|ms\b)"
)


def find_phones(text: str, places: list[Span]) -> Iterator[Span]:
    """Yield where telephone numbers are.

    International, North American and Chinese numbers as they are usually written tell by themselves. Without hyphens or
    brackets, a Chinese number needs Chinese text or a mail address beside it and must not be a quantity; any other
    number needs to be called telephone, fax and the like.
    """
    for match in _matches(_INTERNATIONAL, text, places):
        sure = _before(_ABOUT_PHONES, text, match.start())
        if length := _length_of_valid(match[0]):
            if sure or match[0][0] == "+" or re.search("[ ()-]", match[0]):
                yield match.start(), match.start() + length
        elif sure:
            yield match.span()
    for pattern, country in ((_NORTH_AMERICAN, "US"), (_CHINESE, "CN")):
        for match in _matches(pattern, text, places):
            if _is_valid(match[0], country) and not _before(_ABOUT_VERSIONS, text, match.start()):
                yield match.span()
    for match in _matches(_CHINESE_BARE, text, places):
        if _is_valid(match[0], "CN") and _is_contact(text, *match.span()):
            yield match.span()
    for match in _matches(_CALLED, text, places):
        sure = _before(_ABOUT_PHONES, text, match.start())
        if (sure or _before(_ABOUT_CALLING, text, match.start())) and _is_number(match[0], sure):
            yield match.span()


def _length_of_valid(written: str) -> int:
    """Return the length of the longest beginning that is an international number, 0 without one: what follows after a
    space can be another."""
    while len(written) > 7:
        if _is_valid(re.sub(r"^00", "+", written), None):
            return len(written)
        written = re.sub(r"(?:^|[ ().（）/-]+)[^ ().（）/-]+$", "", written)
    return 0


def _is_contact(text: str, start: int, stop: int) -> bool:
    if _before(_ABOUT_PHONES, text, start) or _before(_ABOUT_CALLING, text, start):
        return True
    if _before(_QUANTITY_BEFORE, text, start) or _QUANTITY_AFTER.match(text, stop):
        return False
    beside = text[max(start - 20, 0) : start] + text[stop : stop + 6]
    return _HAN.search(beside) is not None or "@" in text[max(start - 40, 0) : stop + 40]


def _is_number(written: str, sure: bool) -> bool:
    """Say whether this is neither a row of numbers nor a date, and valid in the United States or China or, where it is
    certainly called a telephone, as long as a local number or one with a trunk prefix."""
    digits = re.sub("[^0-9]", "", written)
    if len(re.findall("[0-9]+", written)) > 5 or re.match(
        r"(?:19|20)[0-9]{2}(?:-?(?:0[1-9]|1[0-2])-?[0-3][0-9]|-(?:19|20))", written
    ):
        return False
    if _is_valid(digits, "US") or _is_valid(digits, "CN"):
        return True
    return sure and (len(digits) <= 8 or (written.strip("(（")[0] == "0" and 9 <= len(digits) <= 12))


@functools.lru_cache(maxsize=4096)
def _is_valid(written: str, country: str | None) -> bool:
    import phonenumbers

    if len(set(re.sub("[^0-9]", "", written)[-7:])) < 2:
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, country))
    except phonenumbers.NumberParseException:
        return False


def _before(pattern: re.Pattern[str], text: str, stop: int) -> bool:
    """Say whether what stands before a place ends with a pattern."""
    return pattern.search(text, max(stop - 40, 0), stop) is not None
