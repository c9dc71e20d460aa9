"""Finds telephone numbers in a text.

`phonenumbers`, a port of Google's libphonenumber, knows the numbering plans of all countries and says what can be one.
Where a number alone proves little, the words beside it have to say what it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from data_pipeline.cleaning.number_regions import ABOUT_VERSIONS, matches_in, stands_before

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


def find_phones(text: str, regions: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield where telephone numbers are.

    International, North American and Chinese numbers as they are usually written tell by themselves. Without hyphens or
    brackets, a Chinese number needs Chinese text or a mail address beside it and must not be a quantity; any other
    number needs to be called telephone, fax and the like.
    """
    for match in matches_in(_INTERNATIONAL, text, regions):
        sure = stands_before(_ABOUT_PHONES, text, match.start())
        if length := _length_of_valid(match[0]):
            if sure or match[0][0] == "+" or re.search("[ ()-]", match[0]):
                yield match.start(), match.start() + length
        elif sure:
            yield match.span()
    for pattern, country in ((_NORTH_AMERICAN, "US"), (_CHINESE, "CN")):
        for match in matches_in(pattern, text, regions):
            if _is_valid(match[0], country) and not stands_before(ABOUT_VERSIONS, text, match.start()):
                yield match.span()
    for match in matches_in(_CHINESE_BARE, text, regions):
        if _is_valid(match[0], "CN") and _is_contact(text, *match.span()):
            yield match.span()
    for match in matches_in(_CALLED, text, regions):
        sure = stands_before(_ABOUT_PHONES, text, match.start())
        if (sure or stands_before(_ABOUT_CALLING, text, match.start())) and _is_number(match[0], sure):
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
    if stands_before(_ABOUT_PHONES, text, start) or stands_before(_ABOUT_CALLING, text, start):
        return True
    if stands_before(_QUANTITY_BEFORE, text, start) or _QUANTITY_AFTER.match(text, stop):
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
