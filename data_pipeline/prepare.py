"""`headrace prepare`: a corpus of text to a folder of token shards.

The folder is the same byte for byte whatever the number of workers, and appears under its name when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.markup import escape

from data_pipeline.encoding import EncodersDifferError, Encoding, batches, encode_batch, why_not_fast
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import fresh_folder, json_hash, publish_folder
from data_pipeline.foundation.locations import identity
from data_pipeline.foundation.progress import Task, say
from data_pipeline.foundation.verb import Request, Verb
from data_pipeline.manifest import FILE_NAME, FORMAT_VERSION, Manifest, dataset_fingerprint, load_manifest
from data_pipeline.parallel import Workers
from data_pipeline.readers import Corpus, corpus_name, open_corpus, without_secrets
from data_pipeline.readers.document import Document
from data_pipeline.tokenizer import SMALLEST_SAMPLE, BpeConfig, Tokenizer, load_tokenizer, sample_texts, train_tokenizer
from data_pipeline.writer import DatasetWriter

PROOF_BYTES = 1 << 18
"""Of the corpus, on which the fast encoder has to prove itself before it is used."""


@dataclass
class PrepareConfig:
    """Settings of `prepare`.

    Args:
        output: folder of the dataset.
        corpus: what to read: one of `readers.CORPORA`.
        tokenizer: how to make it tokens: one of `tokenizer.TOKENIZERS`.
        workers: processes; the cores that this process may use if None. Has no influence on the result.
        validation_fraction: of documents.
        block_tokens: tokens in a WebDataset sample, at most, but for longer documents.
        shard_tokens: tokens in a tar, about.
        overwrite: replace a dataset that was made with other settings or from other text.
    """

    output: str = MISSING
    corpus: Any = MISSING
    tokenizer: Any = MISSING
    workers: int | None = None
    validation_fraction: float = 0.02
    block_tokens: int = 1 << 16
    shard_tokens: int = 1 << 25
    overwrite: bool = False


class Reading:
    """All documents of a corpus, and what was left out on the way."""

    def __init__(self, corpus: Corpus):
        self.corpus, self.units = corpus, corpus.units()
        self.dropped: Counter[str] = Counter()

    def documents(self) -> Iterator[Document]:
        self.dropped.clear()
        for unit in self.units:
            for item in self.corpus.read(unit):
                if isinstance(item, Document):
                    yield item
                else:
                    self.dropped[item.reason] += 1


def prepare(config: PrepareConfig) -> Manifest:
    """Make the dataset folder of a configuration, or find that it is there already.

    Raises:
        UserError: an unusable setting or input, or another dataset at the same place.
        Failure: a worker process died, or the disk is full.
    """
    started = time.monotonic()
    check_settings(config)
    output = Path(os.path.abspath(config.output))
    with Workers(config.workers or _cores()) as workers:
        corpus = Reading(open_corpus(config.corpus))
        settings = content_settings(config, corpus)
        if existing := find_existing(output, settings, config.overwrite):
            return existing
        with staging(output) as staged:
            tokenizer = make_tokenizer(config, corpus)
            tokenizer.save(staged / "tokenizer")
            writer = write_shards(config, corpus, tokenizer, workers, staged)
            manifest = make_manifest(writer, tokenizer, corpus, settings)
            check_splits(manifest)
            manifest.save(staged)
            publish(staged, output)
    seconds = time.monotonic() - started
    size = sum(counts.bytes for counts in manifest.splits.values()) / 1e6
    say(f"prepared {size:.1f} MB of text in {seconds:.1f} s, {size / seconds:.1f} MB/s")
    return manifest


def check_settings(config: PrepareConfig) -> None:
    """Refuse settings that can't give a dataset. Raises UserError."""
    if not 0 < config.validation_fraction < 1:
        raise UserError(f"validation_fraction={config.validation_fraction} must lie between 0 and 1")
    for key in ("workers", "block_tokens", "shard_tokens"):
        value = getattr(config, key)
        if value is not None and value < 1:
            raise UserError(f"{key}={value} must be at least 1")
    if isinstance(config.tokenizer, BpeConfig) and config.tokenizer.training_bytes < SMALLEST_SAMPLE:
        raise UserError(
            f"tokenizer.training_bytes={config.tokenizer.training_bytes} must be at least {SMALLEST_SAMPLE}"
        )


def content_settings(config: PrepareConfig, corpus: Reading) -> dict[str, Any]:
    """Return every setting that has an influence on the content, with a hash of all that is read."""
    # A big file is in several pieces.
    files = list(dict.fromkeys(piece.location for unit in corpus.units for piece in unit.pieces))
    if not isinstance(config.tokenizer, BpeConfig):
        path = Path(config.tokenizer.path)
        load_tokenizer(path, config.tokenizer.end_of_document)
        files += [str(file) for file in sorted(path.glob("tokenizer*.json"))] if path.is_dir() else [str(path)]
    return {
        "corpus": {"name": corpus_name(config.corpus), **without_secrets(config.corpus)},
        "tokenizer": asdict(config.tokenizer),
        "validation_fraction": config.validation_fraction,
        "block_tokens": config.block_tokens,
        "shard_tokens": config.shard_tokens,
        "inputs": json_hash([identity(location) for location in files]),
    }


def find_existing(output: Path, settings: dict[str, Any], overwrite: bool) -> Manifest | None:
    """Return the manifest of the same dataset, if it is there already.

    Raises:
        UserError: there is something else, and it may not or must not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / FILE_NAME).is_file():
        raise UserError(f"{output} exists and is not a dataset; it is never replaced: choose another output=FOLDER")
    if overwrite:
        return None
    manifest = load_manifest(output)
    if manifest.settings != settings:
        changed = [key for key in settings if manifest.settings.get(key) != settings[key]]
        raise UserError(
            f"{output} holds a dataset with another {', '.join(changed)}: choose another output=FOLDER, "
            "or replace it with overwrite=true"
        )
    missing = [
        name
        for shard in manifest.shards
        for name, size in ((shard.name, shard.bytes), (shard.index_name, shard.index_bytes))
        if not (output / name).is_file() or (output / name).stat().st_size != size
    ]
    if missing:
        raise UserError(f"{output} holds this dataset, damaged ({missing[0]}): make it again with overwrite=true")
    say(escape(f"{output} holds this dataset already: same settings, same text"))
    return manifest


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give an empty folder beside the output; nothing of it stays behind when something goes wrong.

    Raises:
        UserError: no folder can be made there.
        Failure: the disk is full or broken.
    """
    staged = output.with_name(output.name + ".tmp")
    try:
        fresh_folder(staged)
    except OSError as error:
        raise UserError(f"output={output}: the folder can't be made: {error.strerror}") from None
    try:
        yield staged
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError):
            raise Failure(f"{output} can't be written: {error.strerror or error}") from error
        raise


def make_tokenizer(config: PrepareConfig, corpus: Reading) -> Tokenizer:
    """Train a tokenizer on a sample of the corpus, or load the one that is named."""
    if not isinstance(config.tokenizer, BpeConfig):
        return load_tokenizer(Path(config.tokenizer.path), config.tokenizer.end_of_document)
    with Task("reading text for the tokenizer", None, "documents") as task:
        texts = sample_texts(_counted(corpus, task), config.tokenizer.training_bytes)
    _require_documents(bool(texts))
    started = time.monotonic()
    tokenizer = train_tokenizer(texts, config.tokenizer.vocabulary_size)
    size = sum(len(text.encode()) for text in texts) / 1e6
    found = tokenizer.vocabulary_size
    short = "" if found == config.tokenizer.vocabulary_size else ", all that this text has"
    say(f"trained a tokenizer of {found:,} tokens{short} on {size:.1f} MB in {time.monotonic() - started:.1f} s")
    return tokenizer


def write_shards(
    config: PrepareConfig, corpus: Reading, tokenizer: Tokenizer, workers: Workers, folder: Path
) -> DatasetWriter:
    """Encode the corpus into shards, with the fast encoder for as long as it proves equal to the reference."""
    reason = why_not_fast(tokenizer, _first_texts(corpus))
    if reason is None:
        say("encoding with fastokens: same ids as tokenizers on a sample of this corpus; spot-checked on the way")
        try:
            return _write_shards(config, corpus, tokenizer, workers, folder, fast=True)
        except EncodersDifferError as difference:
            reason = f"{difference}; all is encoded again"
            _remove_shards(folder)
    say(escape(f"encoding with tokenizers: {reason}"))
    return _write_shards(config, corpus, tokenizer, workers, folder, fast=False)


def make_manifest(writer: DatasetWriter, tokenizer: Tokenizer, corpus: Reading, settings: dict[str, Any]) -> Manifest:
    """Return the manifest of what was written."""
    dtype = _dtype(tokenizer)
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=dataset_fingerprint(writer.shards, dtype, tokenizer.fingerprint),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_document=tokenizer.end_of_document,
        dtype=dtype,
        splits=writer.split_counts(),
        sources=writer.source_counts(),
        shards=writer.shards,
        settings=settings,
        dropped=dict(sorted(corpus.dropped.items())),
    )


def check_splits(manifest: Manifest) -> None:
    """Refuse a dataset that nothing can be trained on or measured with. Raises UserError."""
    documents = {name: counts.documents for name, counts in manifest.splits.items()}
    _require_documents(any(documents.values()))
    for split, count in documents.items():
        if count == 0:
            raise UserError(
                f"of {sum(documents.values())} documents none is in the {split} split, with validation_fraction="
                f"{manifest.settings['validation_fraction']}: give more documents, another fraction, or divide long "
                "texts into documents by corpus.separator='\\n\\n'"
            )


def publish(staged: Path, output: Path) -> None:
    """Rename the finished folder into place; an older dataset there goes only when the new one stands."""
    older = output.with_name(f".{output.name}.replaced")
    if output.exists():
        shutil.rmtree(older, ignore_errors=True)
        os.rename(output, older)
    publish_folder(staged, output)
    shutil.rmtree(older, ignore_errors=True)


def _write_shards(
    config: PrepareConfig, corpus: Reading, tokenizer: Tokenizer, workers: Workers, folder: Path, fast: bool
) -> DatasetWriter:
    encoding = Encoding(
        folder / "tokenizer", tokenizer.fingerprint, _dtype(tokenizer), config.validation_fraction, fast
    )
    writer = DatasetWriter(folder, config.block_tokens, config.shard_tokens)
    with Task("encoding", None, "documents") as task:
        for batch in workers.map(partial(encode_batch, encoding), batches(corpus.documents())):
            for document in batch:
                writer.add(document)
            task.advance(len(batch))
        writer.close()
    return writer


def _remove_shards(folder: Path) -> None:
    for path in (*folder.glob("*.tar"), *folder.glob("*.idx")):
        path.unlink()


def _counted(corpus: Reading, task: Task) -> Iterator[str]:
    for document in corpus.documents():
        yield document.text
        task.advance()


def _first_texts(corpus: Reading) -> Iterator[str]:
    size = 0
    for document in corpus.documents():
        yield document.text[: PROOF_BYTES - size]
        size += len(document.text)
        if size >= PROOF_BYTES:
            return


def _require_documents(found: bool) -> None:
    if not found:
        raise UserError("the corpus has no text: every document in it is empty or was dropped")


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.vocabulary_size <= 1 << 16 else "uint32"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _describe(manifest: Manifest, output: Path) -> str:
    lines = []
    for name, counts in manifest.splits.items():
        ratio = counts.bytes / counts.tokens
        lines.append(
            f"  {name:<11} {counts.documents:>9,} documents {counts.tokens:>14,} tokens {counts.bytes / 1e6:>10,.1f} MB"
            f" {ratio:.2f} bytes/token"
        )
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
    return "\n".join(
        [
            f"{output}: {len(manifest.shards)} shards of {manifest.dtype}, vocabulary {manifest.vocabulary_size:,}",
            *lines,
            *([f"  dropped: {dropped}"] if dropped else []),
        ]
    )


def _dry_run(config: PrepareConfig, as_json: bool) -> None:
    check_settings(config)
    sources: dict[str, dict[str, int]] = {}
    for unit in open_corpus(config.corpus).units():
        counts = sources.setdefault(unit.source, {"files": 0, "bytes": 0})
        counts["files"] += sum(piece.start == 0 for piece in unit.pieces)
        counts["bytes"] += unit.bytes
    if as_json:
        print(json.dumps({"output": config.output, "sources": sources}))
        return
    say(escape(f"would write {config.output}, and read:"))
    for source, counts in sources.items():
        print(f"{source:<40} {counts['files']:>7,} files {counts['bytes'] / 1e6:>12,.1f} MB")


def _run(request: Request) -> int:
    from data_pipeline.foundation.configuration import compose_configuration
    from data_pipeline.schemas import register_schemas

    register_schemas()
    composed = compose_configuration("prepare", request.overrides, PrepareConfig, request.folders)
    config = composed.value
    if request.print_configuration:
        print(composed.yaml(), end="")
        return 0
    if request.dry_run:
        _dry_run(config, request.json)
        return 0
    manifest = prepare(config)
    say(escape(_describe(manifest, Path(config.output))))
    if request.json:
        print(json.dumps({"output": config.output, **asdict(manifest)}))
    return 0


VERB = Verb(
    name="prepare",
    summary="text to a dataset folder: token shards, tokenizer, manifest",
    run=_run,
    groups=("corpus", "tokenizer"),
    keys=(
        ("output=FOLDER", "the dataset; it appears when it is whole"),
        ("corpus.paths=[…]", "files, URLs and patterns to read, with corpus=files"),
        ("corpus.sources.NAME.KEY", "the same and more for each of several, with corpus=sources"),
        ("tokenizer.vocabulary_size", "of the tokenizer that is trained on the corpus"),
        ("tokenizer.path", "a ready tokenizer.json, with tokenizer=file"),
        ("validation_fraction", "of documents kept from training"),
        ("workers", "processes; no influence on the result"),
        ("overwrite=true", "replace a dataset with other settings"),
    ),
    examples=(
        "headrace prepare output=datasets/docs",
        "headrace prepare corpus=files 'corpus.paths=[texts/*.jsonl.gz]' tokenizer.vocabulary_size=32768 output=mine",
        "headrace prepare corpus=files corpus.paths=[a.parquet] tokenizer=file tokenizer.path=t.json output=mine",
    ),
    flags=("--json", "--dry-run"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return VERB.main(arguments)


if __name__ == "__main__":
    # The module as imported, not as __main__: the classes that Hydra knows are the imported ones.
    from data_pipeline.prepare import main as imported_main

    sys.exit(imported_main())
