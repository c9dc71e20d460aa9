"""Tokenizers: trained here as byte-level BPE, or taken from anyone's `tokenizer.json`. Kept as Hugging Face reads them.

Text is data: `<|endoftext|>` inside a document is encoded as the characters it consists of, so no document can forge
the end of another.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash, write_json, write_text

if TYPE_CHECKING:
    import tokenizers

END_OF_DOCUMENT = "<|endoftext|>"
COMMON_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]", "[EOS]")
SMALLEST_VOCABULARY = 257
"""One token per byte, and the end of a document."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text may be cut before merging: Llama 3's pattern (Grattafiori et al. 2024), digits in threes."""

SMALLEST_SAMPLE = 1 << 20


@dataclass
class BpeConfig:
    """Settings of a byte-level BPE trained on the corpus.

    Args:
        vocabulary_size: tokens, the end of a document included; fewer where the text runs out of pairs.
        training_bytes: of text that it is trained on, drawn evenly from the whole corpus.
    """

    vocabulary_size: int = 4096
    training_bytes: int = 16_000_000

    def check(self) -> None:
        """Raise UserError for values that can't give a tokenizer."""
        if self.vocabulary_size < SMALLEST_VOCABULARY:
            raise UserError(f"tokenizer.vocabulary_size={self.vocabulary_size}: bytes alone take {SMALLEST_VOCABULARY}")
        if self.training_bytes < SMALLEST_SAMPLE:
            raise UserError(f"tokenizer.training_bytes={self.training_bytes} must be at least {SMALLEST_SAMPLE}")


@dataclass
class TokenizerFileConfig:
    """Settings of a ready tokenizer.

    Args:
        path: a `tokenizer.json`, or a folder with one.
        end_of_document: the special token that ends a document; guessed from its config and common names if unset.
    """

    path: str = MISSING
    end_of_document: str | None = None


TOKENIZERS: dict[str, type] = {"bpe": BpeConfig, "file": TokenizerFileConfig}


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: the Hugging Face tokenizer.
        end_of_document: name of the special token that ends a document.
        chat_template: carried along for exports.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_document: str, chat_template: str | None = None):
        # Truncation and padding that some files ask for would change documents silently.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        token = backend.token_to_id(end_of_document)
        assert token is not None
        self.backend = backend
        self.end_of_document: int = token
        self.end_of_document_name = end_of_document
        self.chat_template = chat_template

    @functools.cached_property
    def vocabulary_size(self) -> int:
        """One more than the largest id: what an embedding needs, also where a vocabulary has gaps."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of everything that has an influence on ids."""
        return json_hash({"tokenizer": json.loads(self.backend.to_str()), "end_of_document": self.end_of_document})

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: nothing added, special tokens in the text taken for plain characters."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens by name. Broken UTF-8 becomes replacement characters."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and its configs into a new folder, for `tokenizers` and `AutoTokenizer`."""
        folder.mkdir(parents=True)
        configuration: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_of_document_name,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**30,
        }
        if self.chat_template is not None:
            configuration["chat_template"] = self.chat_template
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(folder / "tokenizer_config.json", configuration)
        write_json(folder / "special_tokens_map.json", {"eos_token": self.end_of_document_name})


def load_tokenizer(path: Path, end_of_document: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json` or a folder with one.

    Args:
        end_of_document: name of the special token; by default what `tokenizer_config.json` beside it calls
            `eos_token`, else the first of some common names that it has.

    Raises:
        UserError: there is no such file, it isn't a tokenizer, or it has no token to end a document with.
    """
    import tokenizers

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; a tokenizer is a tokenizer.json or a folder with one")
    try:
        backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{file} is not a Hugging Face tokenizer.json: {error}") from None
    configuration = _configuration_beside(file)
    name = end_of_document or _guess_end(backend, configuration)
    if name is None or backend.token_to_id(name) is None:
        special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
        what = f"has no token {name}" if name else "doesn't say which token ends a document"
        raise UserError(f"{file} {what}; name one by tokenizer.end_of_document=…: {', '.join(special[:20]) or 'none'}")
    template = configuration.get("chat_template")
    return Tokenizer(backend, name, template if isinstance(template, str) else None)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019); no text is unknown to it."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, END_OF_DOCUMENT)


def _configuration_beside(file: Path) -> dict[str, Any]:
    try:
        configuration = json.loads((file.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        configuration = {}
    template = file.parent / "chat_template.jinja"
    return {
        **({"chat_template": template.read_text(encoding="utf-8")} if template.is_file() else {}),
        **(configuration if isinstance(configuration, dict) else {}),
    }


def _guess_end(backend: tokenizers.Tokenizer, configuration: dict[str, Any]) -> str | None:
    named = configuration.get("eos_token")
    if isinstance(named, dict):
        named = named.get("content")
    if isinstance(named, str):
        return named
    return next((name for name in COMMON_NAMES if backend.token_to_id(name) is not None), None)
