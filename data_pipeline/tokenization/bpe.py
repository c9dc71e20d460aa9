"""A byte-level BPE trained on the corpus: no text is unknown to it, and every text comes back as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from data_pipeline.tokenization.chat import CHAT_TEMPLATE, CHAT_TOKENS
from data_pipeline.tokenization.tokenizer import Tokenizer

END_OF_DOCUMENT = "<|endoftext|>"
BYTES = 256
SMALLEST_SAMPLE = 1 << 20

DIGITS = {"threes": r"\p{N}{1,3}", "single": r"\p{N}", "together": r"\p{N}+"}
"""How numbers are cut before merging: 1234 as 123 and 4 (Llama 3), as four digits (Llama 2), or not at all."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text may be cut before merging: Llama 3's pattern (Grattafiori et al. 2024)."""


@dataclass
class BpeConfig:
    """Settings of a byte-level BPE.

    Args:
        vocabulary_size: tokens, special ones included; fewer where the text runs out of pairs.
        training_bytes: of text that it is trained on, drawn evenly from the whole corpus.
        digits: `threes`, `single` or `together`.
        chat: with tokens and a template for conversations.
        special_tokens: more tokens that no text is encoded to, such as ones to be used in tuning.
    """

    vocabulary_size: int = 4096
    training_bytes: int = 16_000_000
    digits: str = "threes"
    chat: bool = False
    special_tokens: list[str] = field(default_factory=list)

    def all_special_tokens(self) -> list[str]:
        """Return the special tokens in the order of their ids, from 0 on."""
        return [END_OF_DOCUMENT, *(CHAT_TOKENS if self.chat else ()), *self.special_tokens]

    def check(self) -> None:
        """Raise UserError for values that can't give a tokenizer."""
        special = self.all_special_tokens()
        if self.vocabulary_size < BYTES + len(special):
            raise UserError(
                f"tokenizer.vocabulary_size={self.vocabulary_size}: bytes and special tokens alone take "
                f"{BYTES + len(special)}"
            )
        if self.training_bytes < SMALLEST_SAMPLE:
            raise UserError(f"tokenizer.training_bytes={self.training_bytes} must be at least {SMALLEST_SAMPLE}")
        if self.digits not in DIGITS:
            raise UserError(f"tokenizer.digits={self.digits}: there are {', '.join(DIGITS)}")
        if len(set(special)) < len(special) or not all(special):
            raise UserError(f"tokenizer.special_tokens: {special} are not all different, or one is empty")


def train_tokenizer(texts: Iterable[str], config: BpeConfig) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019)."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT.replace("DIGITS", DIGITS[config.digits])), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=config.all_special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, END_OF_DOCUMENT, CHAT_TEMPLATE if config.chat else None)
