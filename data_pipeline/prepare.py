"""`headrace prepare`: text from anywhere to a folder of token shards.

    read → clean → find duplicates → make a tokenizer → encode → shuffle into shards → describe → publish

Each phase is made of small tasks that leave their results in files beside the dataset, so a preparation that was
killed goes on where it was. The dataset is the same byte for byte whatever the number of workers, and appears when it
is whole.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import MISSING
from rich.markup import escape

from data_pipeline.cleaning.chain import CleaningConfig, check_cleaning
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import require_local
from data_pipeline.foundation.progress import say
from data_pipeline.foundation.verb import Request, Verb
from data_pipeline.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    Manifest,
    ShardRecord,
    SourceCounts,
    SplitCounts,
    dataset_fingerprint,
    load_manifest,
)
from data_pipeline.parallel import Workers
from data_pipeline.preparation.assemble import assemble_shards
from data_pipeline.preparation.clean import clean_corpus
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.datasheet import Datasheet, originals_of
from data_pipeline.preparation.encode import Encoded, EncodeSettings, encode_corpus
from data_pipeline.preparation.engine import Engine, LocalEngine
from data_pipeline.preparation.engines import check_engine, open_engine
from data_pipeline.preparation.inputs import content_hash, stamp
from data_pipeline.preparation.read import read_corpus
from data_pipeline.preparation.remaining import Remaining, find_remaining
from data_pipeline.preparation.sample import sample_corpus
from data_pipeline.preparation.workplace import Workplace, publish, workplace
from data_pipeline.readers import corpus_name, open_corpus, without_secrets
from data_pipeline.readers.document import Unit
from data_pipeline.readers.samples import SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.chat import CHAT_TEMPLATE
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from data_pipeline.tokenization.tokenizer_file import open_tokenizer


@dataclass
class PrepareConfig:
    """Settings of `prepare`.

    Args:
        output: folder of the dataset.
        corpus: what to read: one of `readers.CORPORA`.
        cleaning: what to do with it before it is encoded.
        tokenizer: how to make it tokens: one of `tokenization.TOKENIZERS`.
        engine: who does the work: one of `engines.ENGINES`; processes on this machine if None.
        workers: processes on this machine; the cores that this one may use if None. Neither engine nor workers have an
            influence on the result.
        validation_fraction: of documents.
        block_tokens: tokens in a WebDataset sample, at most, but for longer documents.
        shard_tokens: tokens in a tar, about.
        provenance: keep in the shards where each document came from.
        overwrite: replace a dataset that was made with other settings or from other text.
    """

    output: str = MISSING
    corpus: Any = MISSING
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    tokenizer: Any = MISSING
    engine: Any = None
    workers: int | None = None
    validation_fraction: float = 0.02
    block_tokens: int = 1 << 16
    shard_tokens: int = 1 << 25
    provenance: bool = False
    overwrite: bool = False


def prepare(config: PrepareConfig) -> Manifest:
    """Make the dataset folder of a configuration, or find that it is there already.

    Raises:
        UserError: an unusable setting or input, or another dataset at the same place.
        Failure: a worker process died, or the disk is full.
    """
    started = time.monotonic()
    check_settings(config)
    config = with_chat_template(config)
    output = Path(os.path.abspath(require_local("output", config.output)))
    source = open_corpus(config.corpus)
    units = source.units()
    settings = content_settings(config)
    with Workers(config.workers or _cores()) as workers:
        if existing := find_existing(output, settings, units, workers, config.overwrite):
            return existing
        with workplace(output, {**settings, "files": stamp(units)}) as place:
            engine = open_engine(config.engine, place, workers)
            settings["inputs"] = content_hash(units, place.folder("inputs"), engine)
            corpus = read_corpus(place, config.corpus, units, engine)
            cleaned = clean_corpus(place, corpus, config.cleaning, engine)
            remaining = find_remaining(place, cleaned, config.cleaning.duplicates, engine)
            tokenizer = make_tokenizer(place, config, cleaned, remaining, engine)
            encoded = encode(place, config, cleaned, remaining, tokenizer, engine)
            shards = assemble_shards(place, encoded, config.block_tokens, config.shard_tokens, engine)
            cleaned.report.add(encoded.report)
            manifest = make_manifest(shards, tokenizer, encoded, cleaned, settings, source.weights())
            check_splits(manifest)
            describe(manifest, encoded, cleaned).save(place.dataset)
            manifest.save(place.dataset)
            publish(place, output)
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
    check_cleaning(config.cleaning)
    if isinstance(config.corpus, SamplesConfig):
        _check_samples(config.cleaning)
    if isinstance(config.tokenizer, BpeConfig):
        config.tokenizer.check()
    check_engine(config.engine)


def _check_samples(cleaning: CleaningConfig) -> None:
    """Refuse stages that change texts: in a sample it is settled which characters are learnt. Raises UserError."""
    for name in ("repair", "quality", "privacy"):
        if getattr(cleaning, name).enabled:
            raise UserError(
                f"cleaning.{name} may change texts, which samples must keep as they are: leave it out with "
                f"cleaning.{name}.enabled=false; languages, duplicates and decontamination are for samples too"
            )


def with_chat_template(config: PrepareConfig) -> PrepareConfig:
    """Return the settings with the template that messages are written by, where they don't say: the tokenizer's own."""
    if not isinstance(config.corpus, SamplesConfig) or config.corpus.chat_template is not None:
        return config
    own = None if isinstance(config.tokenizer, BpeConfig) else open_tokenizer(config.tokenizer).chat_template
    return replace(config, corpus=replace(config.corpus, chat_template=own or CHAT_TEMPLATE))


def content_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return every setting that has an influence on the content."""
    cleaning, tokenizer = asdict(config.cleaning), asdict(config.tokenizer)
    del cleaning["duplicates"]["memory_mb"]
    if not isinstance(config.tokenizer, BpeConfig):
        tokenizer["fingerprint"] = open_tokenizer(config.tokenizer).fingerprint
    return {
        "corpus": {"name": corpus_name(config.corpus), **without_secrets(config.corpus)},
        "cleaning": cleaning,
        "tokenizer": tokenizer,
        "validation_fraction": config.validation_fraction,
        "block_tokens": config.block_tokens,
        "shard_tokens": config.shard_tokens,
        "provenance": config.provenance,
    }


def find_existing(
    output: Path, settings: dict[str, Any], units: Sequence[Unit], workers: Workers, overwrite: bool
) -> Manifest | None:
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
    changed = [key for key in settings if manifest.settings.get(key) != settings[key]]
    with TemporaryDirectory() as folder:
        inputs = None if changed else content_hash(units, Path(folder), LocalEngine(workers))
    if manifest.settings.get("inputs") != inputs:
        raise UserError(
            f"{output} holds a dataset with another {', '.join(changed or ['inputs'])}: choose another output=FOLDER, "
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


def make_tokenizer(
    place: Workplace, settings: PrepareConfig, corpus: Corpus, remaining: Remaining, engine: Engine
) -> Tokenizer:
    """Train a tokenizer on a sample of the corpus, or load the one that is named; save it in the dataset."""
    config = settings.tokenizer
    if not sum(part.documents for part in corpus.parts):
        raise UserError("the corpus has no text: every document in it is empty or was dropped")
    folder = place.dataset / "tokenizer"
    if place.is_done("tokenizer"):
        return load_tokenizer(folder)
    place.remove("dataset")
    if isinstance(config, BpeConfig):
        texts = sample_corpus(place, corpus, remaining, config.training_bytes, engine)
        tokenizer = _train(texts, config)
    else:
        tokenizer = open_tokenizer(config)
    if isinstance(settings.corpus, SamplesConfig):
        tokenizer.chat_template = settings.corpus.chat_template  # by which a model that was tuned wants to be asked
    place.dataset.mkdir(exist_ok=True)
    tokenizer.save(folder)
    place.finish("tokenizer")
    place.remove("sample")
    return tokenizer


def encode(
    place: Workplace, config: PrepareConfig, corpus: Corpus, remaining: Remaining, tokenizer: Tokenizer, engine: Engine
) -> Encoded:
    """Encode the corpus by the dataset's tokenizer."""
    settings = EncodeSettings(
        tokenizer=place.dataset / "tokenizer",
        fingerprint=tokenizer.fingerprint,
        dtype=_dtype(tokenizer),
        validation_fraction=config.validation_fraction,
        keep_provenance=config.provenance,
        privacy=config.cleaning.privacy,
    )
    return encode_corpus(place, corpus, remaining, tokenizer, settings, engine)


def make_manifest(
    shards: list[ShardRecord],
    tokenizer: Tokenizer,
    encoded: Encoded,
    corpus: Corpus,
    settings: dict[str, Any],
    weights: Mapping[str, float],
) -> Manifest:
    """Return the manifest of what was written."""
    dtype = _dtype(tokenizer)
    whole = encoded.whole()
    blocks = {split: sum(shard.blocks for shard in shards if shard.split == split) for split in whole.splits}
    sources = {
        source: SourceCounts(**asdict(composition.total()), weight=weights.get(source))
        for source, composition in encoded.sources.items()
    }
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=dataset_fingerprint(shards, dtype, tokenizer.fingerprint, sources),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_document=tokenizer.end_of_document,
        dtype=dtype,
        splits={split: SplitCounts(**asdict(counts), blocks=blocks[split]) for split, counts in whole.splits.items()},
        sources=sources,
        shards=shards,
        settings=settings,
        stages=corpus.report.to_json()["stages"],
        samples=settings["corpus"].get("kind") if settings["corpus"]["name"] == "samples" else None,
    )


def describe(manifest: Manifest, encoded: Encoded, corpus: Corpus) -> Datasheet:
    """Return the page for people."""
    originals = originals_of(corpus.report, corpus)
    return Datasheet(manifest, encoded.sources, corpus.report, originals, encoded.vocabulary_used())


def check_splits(manifest: Manifest) -> None:
    """Refuse a dataset that nothing can be trained on or measured with. Raises UserError."""
    documents = {name: counts.documents for name, counts in manifest.splits.items()}
    for split, count in documents.items():
        if count == 0:
            raise UserError(
                f"of {sum(documents.values())} documents none is in the {split} split, with validation_fraction="
                f"{manifest.settings['validation_fraction']}: give more documents, another fraction, or divide long "
                "texts into documents by corpus.separator='\\n\\n'"
            )


def _train(texts: list[str], config: BpeConfig) -> Tokenizer:
    started = time.monotonic()
    tokenizer = train_tokenizer(texts, config)
    size = sum(len(text.encode()) for text in texts) / 1e6
    found = tokenizer.vocabulary_size
    short = "" if found == config.vocabulary_size else ", all that this text has"
    say(f"trained a tokenizer of {found:,} tokens{short} on {size:.1f} MB in {time.monotonic() - started:.1f} s")
    return tokenizer


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
    dropped: dict[str, int] = {}
    for stage in manifest.stages.values():
        for counts in stage.values():
            for reason, amount in counts["dropped"].items():
                dropped[reason] = dropped.get(reason, 0) + amount["documents"]
    left_out = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items())
    return "\n".join(
        [
            f"{output}: {len(manifest.shards)} shards of {manifest.dtype}, vocabulary {manifest.vocabulary_size:,}",
            *lines,
            *([f"  left out: {left_out}; examples are in {output / 'dataset.html'}"] if dropped else []),
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
    from data_pipeline.schemas import register_schemas

    register_schemas()
    composed = request.compose("prepare", PrepareConfig)
    if composed is None:
        return 0
    config = composed.value
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
    groups=("corpus", "cleaning", "tokenizer", "engine"),
    keys=(
        ("output=FOLDER", "the dataset; it appears when it is whole"),
        ("corpus.paths=[…]", "files, URLs and patterns to read, with corpus=files"),
        ("corpus.sources.NAME.KEY", "the same and more for each of several, with corpus=sources"),
        ("tokenizer.vocabulary_size", "of the tokenizer that is trained on the corpus"),
        ("tokenizer.path", "a ready tokenizer.json, with tokenizer=file"),
        ("validation_fraction", "of documents kept from training"),
        ("workers", "processes on this machine; no influence on the result"),
        ("engine=slurm", "do the work on a SLURM cluster; no influence on the result"),
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
