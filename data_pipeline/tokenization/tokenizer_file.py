"""A ready tokenizer in any of the usual files: `tokenizer.json`, tiktoken's ranks, or a SentencePiece model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import require_local
from data_pipeline.tokenization.sentencepiece_file import load_sentencepiece
from data_pipeline.tokenization.tiktoken_file import is_tiktoken_file, load_tiktoken
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer, tokenizer_of


@dataclass
class TokenizerFileConfig:
    """Settings of a ready tokenizer.

    Args:
        path: a `tokenizer.json`, or a folder with one; a tiktoken file; a SentencePiece model.
        end_of_document: the special token that ends a document; guessed from its config and common names if unset.
        pattern: of a tiktoken file: `gpt2`, `cl100k`, `o200k`, or a regular expression.
        special_tokens: of a tiktoken file, in the order of their ids behind the ranks.
    """

    path: str = MISSING
    end_of_document: str | None = None
    pattern: str | None = None
    special_tokens: list[str] = field(default_factory=list)


def open_tokenizer(config: TokenizerFileConfig) -> Tokenizer:
    """Load the tokenizer that is named.

    Raises:
        UserError: there is no such file, it isn't a tokenizer, or it has no token to end a document with.
    """
    path = Path(require_local("tokenizer.path", config.path))
    if path.is_dir() or path.suffix == ".json" or not path.is_file():
        return load_tokenizer(path, config.end_of_document)
    if is_tiktoken_file(path):
        if config.pattern is None or not config.special_tokens:
            raise UserError(
                f"{path} is a tiktoken file, which says neither how text is cut nor which special tokens there are: "
                "give tokenizer.pattern=cl100k (or gpt2, o200k, an expression) and tokenizer.special_tokens=[…]"
            )
        backend = load_tiktoken(path, config.pattern, config.special_tokens)
    elif path.suffix == ".model":
        backend = load_sentencepiece(path)
    else:
        raise UserError(f"{path}: can't tell what kind of tokenizer this is; known are .json, .tiktoken and .model")
    return tokenizer_of(backend, path, config.end_of_document)
