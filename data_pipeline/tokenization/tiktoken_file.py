"""tiktoken's rank files, taken over as a Hugging Face tokenizer.

A file has a line per token: its bytes in base64, and its rank. What may be merged is what is a token itself, the lowest
rank first; how text is cut beforehand isn't in the file and has to be known.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.foundation.errors import UserError

if TYPE_CHECKING:
    import tokenizers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    + f"{CONTRACTIONS}?"
    + r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    + f"{CONTRACTIONS}?"
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How the published vocabularies cut text; Llama 3 does as cl100k."""


def is_tiktoken_file(path: Path) -> bool:
    """Return whether a file begins as a rank file does: Llama 3's is called `tokenizer.model`, like SentencePiece's."""
    with open(path, "rb") as file:
        first = file.readline(4096).split()
    return len(first) == 2 and first[1].isdigit() and _decoded(first[0]) is not None


def load_tiktoken(path: Path, pattern: str, special_tokens: list[str]) -> tokenizers.Tokenizer:
    """Take over a rank file.

    Args:
        pattern: the name of a known one, or a regular expression.
        special_tokens: their ids follow the ranks.

    Raises:
        UserError: the file is damaged, or the pattern isn't one.
    """
    import tokenizers
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

    ranks = _read_ranks(path)
    letters = _letters()
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [(left, right) for left, right in parts if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    model = models.BPE(
        {written(token): rank for token, rank in ranks.items()},
        [(written(left), written(right)) for left, right in merges],
        ignore_merges=True,
    )
    backend = tokenizers.Tokenizer(model)
    try:
        split = pre_tokenizers.Split(Regex(PATTERNS.get(pattern, pattern)), "isolated")
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"tokenizer.pattern={pattern} is neither a regular expression nor one of {', '.join(PATTERNS)}: {error}"
        ) from None
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special_tokens])
    return backend


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        words = line.split()
        token = _decoded(words[0]) if len(words) == 2 and words[1].isdigit() else None
        if token is None or token in ranks:
            raise UserError(f"{path}:{number}: not a token in base64 and its rank, or one that came before")
        ranks[token] = int(words[1])
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing or sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"{path} is no whole tiktoken file: {missing} single bytes are missing, or ranks have gaps")
    return ranks


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) or None
    except ValueError:
        return None


def _letters() -> dict[int, str]:
    """Return the letter by which byte-level tokenizers write each byte (Radford et al. 2019): printable ones as they
    are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + at) for at, byte in enumerate(others)}
