"""Documents to tokens, part by part; duplicates stay behind. By the fast encoder for as long as it proves equal."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.markup import escape

from data_pipeline.cleaning.privacy import PrivacyConfig, mask
from data_pipeline.foundation.progress import say
from data_pipeline.preparation.composition import Composition
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.encoded_parts import EncodedDocument, EncodedPart, place_of, write_encoded
from data_pipeline.preparation.engine import Engine
from data_pipeline.preparation.parts import Part
from data_pipeline.preparation.records import has_record, read_record, write_record
from data_pipeline.preparation.remaining import Numbered, Remaining
from data_pipeline.preparation.report import Report, excerpt_around
from data_pipeline.preparation.sample_tokens import encode_sample
from data_pipeline.preparation.workplace import Workplace
from data_pipeline.readers.document import Document, utf8_length
from data_pipeline.tokenization.encoding import EncodersDifferError, FastEncoder, split_of, why_not_fast
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer

PROOF_BYTES = 1 << 18
PROOF_PARTS = 16
"""So many parts give the text on which the fast encoder has to prove itself before it is used."""


@dataclass(frozen=True)
class Encoded:
    """The parts of a corpus as tokens.

    Args:
        folder: of the encoded parts.
        sources: what each source consists of, in the order in which sources were read.
        report: of duplicates, and of what was kept.
    """

    folder: Path
    parts: list[Part]
    sources: dict[str, Composition]
    report: Report

    def whole(self) -> Composition:
        """Return what all sources together consist of."""
        whole = Composition()
        for composition in self.sources.values():
            whole.add(composition)
        return whole

    def vocabulary_used(self) -> int:
        """Return how many tokens occur."""
        used = np.zeros(1, np.uint8)
        for part in self.parts:
            used = used | EncodedPart(part.file(self.folder, ENCODED)).array("vocabulary")
        return int(np.bitwise_count(used).sum())

    def files(self, source: str) -> Iterator[Path]:
        return (part.file(self.folder, ENCODED) for part in self.parts if part.source == source)


ENCODED = ".safetensors"
DUPLICATES, KEPT = "duplicates", "kept"
"""Stages of the report."""


def encode_corpus(
    place: Workplace,
    corpus: Corpus,
    remaining: Remaining,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    engine: Engine,
) -> Encoded:
    """Encode what remains of all parts."""
    difference = place.root / "encoders-differ.json"
    reason = (
        read_record(difference) if difference.exists() else why_not_fast(tokenizer, _proof_texts(corpus, remaining))
    )
    if reason is None:
        say("encoding with fastokens: same ids as tokenizers on a sample of this corpus; spot-checked on the way")
        task = EncodePart(remaining, place.folder("encoded-fast"), settings, difference)
        engine.run("encoding", task, corpus.parts, corpus.megabytes())
        if not difference.exists():
            return _gathered(task, corpus)
        place.remove("encoded-fast")
        reason = f"{read_record(difference)}; all is encoded again"
    say(escape(f"encoding with tokenizers: {reason}"))
    task = EncodePart(remaining, place.folder("encoded"), settings)
    engine.run("encoding", task, corpus.parts, corpus.megabytes())
    return _gathered(task, corpus)


@dataclass(frozen=True)
class EncodeSettings:
    """What every part's encoding has in common.

    Args:
        tokenizer: folder of the tokenizer.
        validation_fraction: of documents, chosen by the hash of their text.
        keep_provenance: keep where each document came from.
        privacy: what is masked in the excerpts that people see.
    """

    tokenizer: Path
    fingerprint: str
    dtype: str
    validation_fraction: float
    keep_provenance: bool
    privacy: PrivacyConfig


@dataclass(frozen=True)
class EncodePart:
    """Encodes one part.

    Args:
        encoded: folder to write to.
        difference: file in which the fast encoder's failure is told; None to use the reference.
    """

    remaining: Remaining
    encoded: Path
    settings: EncodeSettings
    difference: Path | None = None

    def record(self, part: Part) -> Path:
        return part.file(self.encoded, ".json")

    def __call__(self, part: Part) -> None:
        if has_record(self.record(part)) or (self.difference and self.difference.exists()):
            return
        tokenizer, fast = _encoders(self.settings.tokenizer, self.settings.fingerprint, self.difference is not None)
        composition, report = Composition(), Report()
        encoded: list[EncodedDocument] = []
        try:
            for documents in self.remaining.read_all(part):
                staying = [each for each in documents if self._stays(each, report)]
                for each, (tokens, labels) in zip(
                    staying, _tokens_of([each.document for each in staying], tokenizer, fast)
                ):
                    content = each.document.text.encode()
                    result = self._encoded(each, content, tokens, labels)
                    composition.count(result.split, each.document.language, len(content), len(result.tokens))
                    encoded.append(result)
        except EncodersDifferError as error:
            assert self.difference is not None
            return write_record(self.difference, str(error))
        write_encoded(part.file(self.encoded, ENCODED), encoded, tokenizer.vocabulary_size, self.settings.dtype)
        write_record(self.record(part), {"composition": asdict(composition), "report": report.to_json()})

    def _stays(self, each: Numbered, report: Report) -> bool:
        """Count a document, and say whether it is none of the duplicates."""
        document, size = each.document, utf8_length(each.document.text)
        if self.remaining.duplicates is not None:
            counts = report.counts(DUPLICATES, document.source)
            counts.taken.add(1, size)
            if each.original is not None:
                kind = "exact" if each.exact else "near"
                report.dropped(DUPLICATES, document.source, kind, size)
                if report.wants_example(f"{DUPLICATES}/{kind}", document.key):
                    text = self._shown(document)
                    report.add_example(f"{DUPLICATES}/{kind}", document.key, text, None, each.original)
                return False
            counts.given.add(1, size)
        if report.wants_example(f"{KEPT}/{document.source}", document.key):
            text = self._shown(document)
            report.add_example(f"{KEPT}/{document.source}", document.key, text, text)
        return True

    def _shown(self, document: Document) -> str:
        return excerpt_around(mask(document.text, self.settings.privacy)[0], 0)

    def _encoded(
        self, numbered: Numbered, content: bytes, tokens: np.ndarray, labels: np.ndarray | None
    ) -> EncodedDocument:
        return EncodedDocument(
            tokens=tokens.astype(self.settings.dtype),
            labels=labels,
            split=split_of(content, self.settings.validation_fraction),
            place=place_of(content),
            number=numbered.number,
            key=numbered.document.key if self.settings.keep_provenance else "",
        )


def _tokens_of(
    documents: Sequence[Document], tokenizer: Tokenizer, fast: FastEncoder | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the tokens of documents, each ended, and those of samples with their labels."""
    if documents and documents[0].spans:
        yield from (encode_sample(document, tokenizer) for document in documents)
        return
    texts = [document.text for document in documents]
    ids = fast.encode(texts) if fast else [np.asarray(tokenizer.encode(text), np.uint32) for text in texts]
    yield from ((np.append(document_ids, tokenizer.end_of_document), None) for document_ids in ids)


def _gathered(task: EncodePart, corpus: Corpus) -> Encoded:
    encoded = Encoded(task.encoded, corpus.parts, {}, Report())
    for part in corpus.parts:
        record = read_record(task.record(part))
        composition = encoded.sources.setdefault(part.source, Composition())
        composition.add(Composition.from_json(record["composition"]))
        encoded.report.add(Report.from_json(record["report"]))
    return encoded


def _proof_texts(corpus: Corpus, remaining: Remaining) -> Iterator[str]:
    """Yield text from all over the corpus, PROOF_BYTES of it at the most."""
    parts = corpus.parts[:: -(-len(corpus.parts) // PROOF_PARTS)]
    for part in parts:
        rest = PROOF_BYTES // len(parts)
        for document in next(remaining.read(part), []):
            if rest > 0:
                yield document.text[:rest]
                rest -= len(document.text)


@functools.lru_cache(maxsize=1)
def _encoders(folder: Path, fingerprint: str, fast: bool) -> tuple[Tokenizer, FastEncoder | None]:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.fingerprint == fingerprint
    return tokenizer, FastEncoder(tokenizer) if fast else None
