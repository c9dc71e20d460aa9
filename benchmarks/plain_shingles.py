"""Shingles and their Jaccard similarity in plain Python: written in an hour, slow, and exact to compare with."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

UNSPACED = (
    *("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "COMBINING KATAKANA-HIRAGANA"),
    *("HENTAIGANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR "),
)
"""How the names of those characters begin that are a token each."""
TALLY_MARKS = "IDEOGRAPHIC TALLY MARK"
"""Only their name is ideographic."""

Shingle = tuple[str, ...]


def plain_tokens(text: str) -> list[str]:
    """Return the words of a text, and single characters where a script has no spaces."""
    tokens, word = [], ""
    for character in unicodedata.normalize("NFC", text).casefold():
        kind = kind_of(character)
        if kind == "word":
            word += character
            continue
        if word:
            tokens.append(word)
            word = ""
        if kind == "token":
            tokens.append(character)
    return [*tokens, word] if word else tokens


def plain_shingles(text: str, length: int) -> list[Shingle]:
    """Return every `length` consecutive tokens; all of them where there are fewer."""
    tokens = plain_tokens(text)
    starts = range(max(len(tokens) - length + 1, 1)) if tokens else ()
    return [tuple(tokens[start : start + length]) for start in starts]


def similar_pairs(texts: Sequence[str], length: int) -> dict[tuple[int, int], float]:
    """Return the Jaccard similarity of all pairs of texts that have a shingle in common."""
    seen: dict[Shingle, list[int]] = defaultdict(list)
    sizes: list[int] = []
    similarities = {}
    for number, text in enumerate(texts):
        shingles = set(plain_shingles(text, length))
        common = Counter(earlier for shingle in shingles for earlier in seen[shingle])
        for earlier, count in common.items():
            similarities[earlier, number] = count / (sizes[earlier] + len(shingles) - count)
        for shingle in shingles:
            seen[shingle].append(number)
        sizes.append(len(shingles))
    return similarities


@functools.cache
def kind_of(character: str) -> str:
    """Return `word`, `token` or `separator`, by the character's category and name in Unicode."""
    if unicodedata.category(character)[0] not in "LMN":
        return "separator"
    name = unicodedata.name(character, "")
    return "token" if name.startswith(UNSPACED) and not name.startswith(TALLY_MARKS) else "word"
