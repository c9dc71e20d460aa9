"""A byte-level BPE as GGUF files hold it: tokens, their kinds, merges, and a name for how text is cut before merging.

The names are llama.cpp's; a file with another way of cutting is refused, for it would cut text wrongly in silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.tokenization.bpe import DIGITS, SPLIT
from data_pipeline.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens, as GGUF numbers them."""


@dataclass(frozen=True)
class Cut:
    """A way to cut text before merging.

    Args:
        pattern: regular expression of a piece; None for GPT-2's, which is built into `ByteLevel`.
        single_digits: digits are cut apart first.
        whole_words: a piece that is a token is taken whole, whatever the merges say.
        composed: text is brought into Unicode's form NFC first.
    """

    pattern: str | None
    single_digits: bool = False
    whole_words: bool = False
    composed: bool = False


CUTS = {
    "gpt-2": Cut(None),
    "smollm": Cut(None, single_digits=True),
    "dbrx": Cut(SPLIT.replace("DIGITS", DIGITS["threes"])),
    "llama-bpe": Cut(SPLIT.replace("DIGITS", DIGITS["threes"]), whole_words=True),
    "qwen2": Cut(SPLIT.replace("DIGITS", DIGITS["single"]), composed=True),
}
"""Ways to cut by llama.cpp's name; `dbrx` is Llama 3's pattern without its taking words whole."""


@dataclass(frozen=True)
class GgufVocabulary:
    """What a GGUF file says of its tokenizer."""

    cut: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    chat_template: str | None
    special_ids: dict[str, int]
    """Ids by what `tokenizer_config.json` calls them: `eos_token`, `bos_token` …"""
    add_bos: bool = False


def vocabulary_of(tokenizer: Tokenizer, rows: int) -> GgufVocabulary:
    """Return what a GGUF file has to say of a tokenizer.

    Args:
        rows: of the model's embedding; rows without a token get names that no text has.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    backend = json.loads(tokenizer.backend.to_str())
    model = backend["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError("format=gguf takes byte-level BPE tokenizers alone; this one is another kind")
    cut = _name_of(_cut_of(backend))
    special = {token["content"]: token["special"] for token in backend["added_tokens"]}
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    by_id = {i: token for token, i in vocabulary.items()}
    tokens, kinds = [], []
    for i in range(rows):
        token = by_id.get(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        if token is None:
            kinds.append(UNUSED)
        else:
            kinds.append({True: CONTROL, False: USER_DEFINED, None: NORMAL}[special.get(token)])
    named = {key: vocabulary[name] for key, name in tokenizer.named_tokens.items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    ids = {"bos_token": tokenizer.end_of_document} | named | {"eos_token": tokenizer.end_of_document}
    return GgufVocabulary(cut, tokens, kinds, merges, tokenizer.chat_template, ids)


def _cut_of(backend: dict[str, Any]) -> Cut | None:
    """Return how a tokenizer.json cuts text, or None where it is none of the ways that are known."""
    before = backend["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    normalizer = (backend["normalizer"] or {}).get("type")
    if normalizer not in (None, "NFC") or not steps or steps[-1].get("type") != "ByteLevel":
        return None
    pattern: str | None = None
    single_digits = False
    for step in steps[:-1]:
        if step["type"] == "Digits" and step["individual_digits"] and steps[-1]["use_regex"]:
            single_digits = True
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not steps[-1]["use_regex"]:
            pattern = step["pattern"].get("Regex")
        else:
            return None
    if steps[-1]["add_prefix_space"] or (pattern is None and not steps[-1]["use_regex"]):
        return None
    return Cut(pattern, single_digits, bool(backend["model"].get("ignore_merges")), normalizer == "NFC")


def _name_of(cut: Cut | None) -> str:
    for name, known in CUTS.items():
        if cut == known:
            return name
    if cut == Cut(CUTS["qwen2"].pattern):
        # llama.cpp doesn't compose text, which it leaves to those who call it.
        return "qwen2"
    raise UserError(
        f"format=gguf: the tokenizer cuts text in a way that llama.cpp has no name for (known are {', '.join(CUTS)}): "
        "use format=hf"
    )


def tokenizer_of(vocabulary: GgufVocabulary, where: str, end_of_document: str | None = None) -> Tokenizer:
    """Return the tokenizer that a GGUF file describes.

    Args:
        where: the file, for messages.
        end_of_document: the special token that ends a document; None for what the file says.

    Raises:
        UserError: it cuts text in a way that isn't known, or names no end.
    """
    if vocabulary.cut not in CUTS:
        raise UserError(
            f"{where} cuts text in the way {vocabulary.cut!r}; known are {', '.join(CUTS)}. Import the model's Hugging "
            "Face folder instead"
        )
    special = {key: vocabulary.tokens[i] for key, i in vocabulary.special_ids.items() if i < len(vocabulary.tokens)}
    end = end_of_document or special.get("eos_token")
    if end is None or end not in vocabulary.tokens:
        raise UserError(f"{where} has no token {end}: name the one that ends a document by end_of_document=…")
    named = {key: name for key, name in special.items() if key != "eos_token"}
    try:
        backend = _backend(vocabulary, special.get("bos_token"))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{where}: its tokens and merges make no tokenizer: {error}") from None
    return Tokenizer(backend, end, vocabulary.chat_template, named)


def _backend(vocabulary: GgufVocabulary, beginning: str | None) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

    cut = CUTS[vocabulary.cut]
    kinds = list(zip(vocabulary.tokens, vocabulary.kinds))
    ids = {token: i for i, (token, kind) in enumerate(kinds) if kind != UNUSED}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    backend: Any = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=cut.whole_words))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cut.single_digits else []
    if cut.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(cut.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if cut.composed:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == CONTROL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in kinds if kind == USER_DEFINED])
    if vocabulary.add_bos and beginning is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{beginning}:0 $A:0", pair=None, special_tokens=[(beginning, ids[beginning])]
        )
    return backend
