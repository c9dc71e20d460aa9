""".html: a page is one document, decoded as a browser would; its text is taken out of the markup later."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from data_pipeline.readers.input import Input, Item, Unfit
from data_pipeline.readers.streams import read_at_most, wide_encoding

PRESCAN_BYTES = 1024
META_CHARSET = re.compile(rb"<meta\s[^>]*?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)

# The encodings of the WHATWG Encoding Standard, by what Python calls a superset or the same; what pages call by other
# names is found by `codecs.lookup`. Nothing else is decoded: some of Python's codecs aren't encodings of text.
ENCODINGS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    **{
        name: name
        for name in (
            *("utf-8", "utf-16-le", "utf-16-be", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949"),
            *("cp866", "cp874", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", *(f"cp125{n}" for n in range(9))),
            *(f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
        )
    },
}


def read_html(file: Input) -> Iterator[Item]:
    with file.open() as content:
        yield page(file, "", read_at_most(content, file.settings.largest_document))


def page(file: Input, where: str, content: bytes, charset: str | None = None, markup: str = "html") -> Item:
    """Return a page, or a plain text in some charset, as a document.

    Args:
        file: that it is in.
        where: in the file.
        content: not more than one byte over what is allowed.
        charset: that the server named.
        markup: of the document.
    """
    if len(content) > file.settings.largest_document:
        return file.too_long(where)
    try:
        return file.text(where, decode_html(content, charset), markup)
    except Unfit as unfit:
        return file.unfit(where, unfit)


def decode_html(content: bytes, charset: str | None = None) -> str:
    """Return a page's markup as text.

    The encoding is, as in the WHATWG HTML standard, that of a byte order mark, else the one that the server named, else
    that of a meta element near the start; bytes that aren't in it become U+FFFD. Where nobody names one, it has to be
    UTF-8: a browser would guess.

    Raises:
        Unfit: it is binary, or in an encoding that isn't named or known.
    """
    if content.startswith(codecs.BOM_UTF8):
        return content[len(codecs.BOM_UTF8) :].decode(errors="replace")
    if mark := wide_encoding(content[:4]):
        return content.decode(mark, errors="replace").removeprefix("\ufeff")
    named = charset or _meta_charset(content)
    encoding = _encoding(named) if named else "utf-8"
    try:
        return content.decode(encoding, errors="replace" if named else "strict")
    except UnicodeDecodeError as error:
        raise Unfit(
            "invalid_text", f"the page names no charset and is not UTF-8 (byte 0x{content[error.start]:02x})"
        ) from None


def _meta_charset(content: bytes) -> str | None:
    found = META_CHARSET.search(content[:PRESCAN_BYTES])
    if found is None:
        return None
    # A page whose meta element could be read as ASCII is in no 16-bit encoding, whatever it says.
    name = found[1].decode("ascii", "replace")
    return "utf-8" if name.lower().startswith("utf-16") else name


def _encoding(name: str) -> str:
    try:
        known = codecs.lookup(name.strip().strip("\"'")).name
    except (LookupError, ValueError):
        known = ""
    if known not in ENCODINGS:
        raise Unfit("invalid_text", f"the page is in an unknown charset, {name[:40]!a}")
    return ENCODINGS[known]
