"""A tokenizer, as Hugging Face's libraries read it.

Text is data: `<|endoftext|>` inside a document is encoded as the characters it consists of, so no document can forge
the end of another.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_bytes, json_hash, whole_file

if TYPE_CHECKING:
    import tokenizers

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What a saved tokenizer consists of."""
NAMED_TOKENS = ("bos_token", "unk_token", "pad_token")
"""Special tokens beside the end that a config may name, for templates and generation elsewhere."""
COMMON_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]", "[EOS]")


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: the Hugging Face tokenizer.
        end_of_document: name of the special token that ends a document.
        chat_template: carried along for exports.
        named_tokens: special tokens by what a config calls them, of `NAMED_TOKENS`; carried along for exports.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        end_of_document: str,
        chat_template: str | None = None,
        named_tokens: dict[str, str] | None = None,
    ):
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
        self.named_tokens = named_tokens or {}

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

    def encode_markup(self, text: str) -> list[int]:
        """Return the ids of what a chat template wrote, in which the names of special tokens stand for them."""
        self.backend.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self.backend.encode_special_tokens = True

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens by name. Broken UTF-8 becomes replacement characters."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and its configs into a new folder, for `tokenizers` and `AutoTokenizer`."""
        folder.mkdir(parents=True)
        for name, content in self.files().items():
            with whole_file(folder / name) as file:
                file.write(content)

    def files(self) -> dict[str, bytes]:
        """Return what `save` writes, by file name."""
        configuration: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_of_document_name,
            **self.named_tokens,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**30,
        }
        if self.chat_template is not None:
            configuration["chat_template"] = self.chat_template
        tokenizer, configuration_name, special_tokens = FILES
        return {
            tokenizer: self.backend.to_str(pretty=True).encode(),
            configuration_name: json_bytes(configuration),
            special_tokens: json_bytes({"eos_token": self.end_of_document_name, **self.named_tokens}),
        }


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
    return tokenizer_of(backend, file, end_of_document)


def tokenizer_of(backend: tokenizers.Tokenizer, file: Path, end_of_document: str | None = None) -> Tokenizer:
    """Make a tokenizer of what was read from a file. Raises UserError where no token ends a document."""
    configuration = _configuration_beside(file)
    name = end_of_document or _guess_end(backend, configuration)
    if name is None or backend.token_to_id(name) is None:
        special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
        what = f"has no token {name}" if name else "doesn't say which token ends a document"
        raise UserError(f"{file} {what}; name one by tokenizer.end_of_document=…: {', '.join(special[:20]) or 'none'}")
    template = configuration.get("chat_template")
    found = {key: _content(configuration.get(key)) for key in NAMED_TOKENS}
    named = {key: token for key, token in found.items() if token is not None and backend.token_to_id(token) is not None}
    return Tokenizer(backend, name, template if isinstance(template, str) else None, named)


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
    if named := _content(configuration.get("eos_token")):
        return named
    return next((name for name in COMMON_NAMES if backend.token_to_id(name) is not None), None)


def _content(token: Any) -> str | None:
    """Return the name of a token that a config gives as a text or as an object with its properties."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None
