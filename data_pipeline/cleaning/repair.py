"""Repair of what went wrong on a text's way: mojibake, control characters, invisible debris, line ends; Unicode NFC.

What is right already comes back as it was, in any script, and so does code: nothing is done to ASCII but to its control
characters and line ends, and nothing that changes what a reader sees (no NFKC, no straight quotes, no HTML entities).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace

from data_pipeline.cleaning.stage import Dropped, Kept, SingleStage
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document


@dataclass
class RepairConfig:
    """Settings of repair.

    Args:
        enabled: repair texts.
        mojibake: undo wrong decodings, with ftfy.
        normalise: to Unicode NFC.
        maximum_control_characters: share of control characters in a text, beyond which it is taken for no text at all
            and dropped; None keeps all.
    """

    enabled: bool = False
    mojibake: bool = True
    normalise: bool = True
    maximum_control_characters: float | None = 0.01


class Repair(SingleStage):
    """Repairs texts. Drops those of which nothing is left as `empty`, and as `binary` what is no text.

    Changes are counted as `line_ends`, `terminal_escapes`, `control_characters` and `invisible_characters`, and as
    `mojibake_lines` and `normalised_lines`.
    """

    def __init__(self, config: RepairConfig):
        self._config = config

    def apply(self, document: Document) -> Kept | Dropped:
        changes: Counter[str] = Counter()
        text, before = document.text, None
        while text != before:  # one repair can lay bare what needs another
            before = text
            text = _without_terminal_escapes(_with_line_ends(text, changes), changes)
            size = len(text)
            text = _removed(_CONTROL, text, changes, "control_characters")
            limit = self._config.maximum_control_characters
            if limit is not None and size - len(text) > limit * size:
                return Dropped("binary")
            if not text.isascii():
                text = self._with_right_characters(text, changes)
        if not text.strip():
            return Dropped("empty")
        if text == document.text:
            return Kept(document)
        return Kept(replace(document, text=text), +changes)

    def _with_right_characters(self, text: str, changes: Counter[str]) -> str:
        if self._config.mojibake:
            text = _without_mojibake(text, changes)
        text = _removed(_LATIN_CONTROL, text, changes, "control_characters")
        text = _without_invisible(text, changes)
        return _normalised(text, changes) if self._config.normalise else text


def check_repair(config: RepairConfig) -> None:
    """Refuse a share that is none. Raises UserError."""
    limit = config.maximum_control_characters
    if limit is not None and not 0 <= limit <= 1:
        raise UserError(f"cleaning.repair.maximum_control_characters={limit} must lie between 0 and 1")


def _with_line_ends(text: str, changes: Counter[str]) -> str:
    for end in ("\r\n", "\r", "\u2028", "\u2029"):
        if end in text:
            changes["line_ends"] += text.count(end)
            text = text.replace(end, "\n")
    return text


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b\n]*+(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78cDEHMNOZ])")
_OVERSTRIKE = re.compile(r"[^\n\b]\x08")
"""Terminals print bold and underlined text as a character, a step back and a character."""


def _without_terminal_escapes(text: str, changes: Counter[str]) -> str:
    if "\x1b" in text:
        text = _removed(_ESCAPE, text, changes, "terminal_escapes")
    if "\x08" in text:
        text = _removed(_OVERSTRIKE, text, changes, "terminal_escapes")
    return text


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_LATIN_CONTROL = re.compile(r"[\x80-\x9f]")
"""Not before mojibake is undone: it is full of them."""

_SUSPICIOUS = re.compile("[\x80-\u04ff\u2020\u2021\u2044\u2070-\u2bff]")
"""What wrong decodings turn non-ASCII text into has at least one of these; right Chinese, say, has none."""

_ABOUT_ENCODINGS = re.compile(r"utf-?8|iso-?8859|latin-?1|unicode|encod|mojibake|编码|編碼|乱码|亂碼", re.IGNORECASE)
"""A line that shows mojibake on purpose says what it is about."""


def _without_mojibake(text: str, changes: Counter[str]) -> str:
    from ftfy import TextFixerConfig, fix_encoding
    from ftfy.badness import is_bad

    parts, end = [], 0
    while suspicious := _SUSPICIOUS.search(text, end):
        start = text.rfind("\n", end, suspicious.start()) + 1 or end
        stop = text.find("\n", suspicious.end())
        stop = len(text) if stop < 0 else stop
        line = text[start:stop]
        if is_bad(line) and not _ABOUT_ENCODINGS.search(line):
            mended = fix_encoding(line, TextFixerConfig(unescape_html=False, explain=False))
            changes["mojibake_lines"] += mended != line
            line = mended
        parts += [text[end:start], line]
        end = stop
    return "".join([*parts, text[end:]])


_INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]+")
_DIRECTION_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_WITHOUT_SPACES = re.compile("[\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\ua980-\uaadf]")
"""Scripts in which a zero-width space is where a line may break: Thai, Lao, Tibetan, Burmese, Khmer and their kin."""
_JOINING = re.compile(
    "[\u0600-\u1dff\u2190-\u2bff\ua800-\uabff\ufb50-\ufdff\ufe00-\ufe0f\ufe70-\ufefc\U00010a00-\U000e01ef]"
)
"""Scripts whose letters join, and emoji: zero-width joiners and non-joiners change what is seen."""
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001eeff]")


def _without_invisible(text: str, changes: Counter[str]) -> str:
    if not _INVISIBLE.search(text):
        return text
    directions = _DIRECTION_MARKS if _RIGHT_TO_LEFT.search(text) else ""

    def visible(match: re.Match[str]) -> str:
        around = text[max(match.start() - 1, 0) : match.start()] + text[match.end() : match.end() + 1]
        kept = directions
        if _WITHOUT_SPACES.search(around):
            kept += "\u200b"
        if _JOINING.search(around):
            kept += "\u200c\u200d"
        left = "".join(character for character in match[0] if character in kept)
        changes["invisible_characters"] += len(match[0]) - len(left)
        return left

    return _INVISIBLE.sub(visible, text)


def _normalised(text: str, changes: Counter[str]) -> str:
    if unicodedata.is_normalized("NFC", text):
        return text
    lines = text.split("\n")
    normalised = [unicodedata.normalize("NFC", line) for line in lines]
    changes["normalised_lines"] += sum(line != other for line, other in zip(lines, normalised))
    return "\n".join(normalised)


def _removed(pattern: re.Pattern[str], text: str, changes: Counter[str], kind: str) -> str:
    """Return the text without what matches, counted by matches."""
    text, count = pattern.subn("", text)
    changes[kind] += count
    return text
