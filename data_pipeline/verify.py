"""Checks a dataset folder against its manifest, and rebuilds what the tars alone can give."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.markup import escape

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.foundation.progress import say
from data_pipeline.labels import ANSWERS, EXPECTED, PREFERENCES, PROBLEMS, REJECTED
from data_pipeline.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    SHARD_NAME,
    SPLITS,
    Manifest,
    OtherFormatError,
    ShardRecord,
    SourceCounts,
    SplitCounts,
    dataset_fingerprint,
    load_manifest,
)
from data_pipeline.shards import ShardIndex, load_index, rebuild_index, write_index
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer


def verify_dataset(folder: Path, repair: bool = False) -> list[str]:
    """Check every checksum, index, count and token of a dataset.

    Args:
        folder: of the dataset.
        repair: rebuild indexes and the manifest's counts where the tars are sound; a manifest that is lost is made
            anew from the tars and the tokenizer (its settings are lost).

    Returns:
        what is wrong, a line each, naming the file; after a repair, what is still wrong.

    Raises:
        UserError: there is no such folder, or it is not a dataset.
    """
    try:
        manifest = load_manifest(folder)
    except OtherFormatError:
        raise
    except UserError as error:
        if not folder.is_dir() or not any(folder.glob("*.tar")):
            raise
        if not repair:
            return [str(error)]
        return _rebuild(folder)
    problems, records = [], []
    for record in manifest.shards:
        found, checked = _verify_shard(folder, record, manifest, repair)
        problems += found
        records.append(checked)
    problems += _unlisted(folder, manifest.shards)
    problems += _verify_tokenizer(folder, manifest)
    problems += _verify_counts(folder, replace(manifest, shards=records), repair)
    return problems


def _verify_shard(folder: Path, record: ShardRecord, manifest: Manifest, repair: bool) -> tuple[list[str], ShardRecord]:
    """Return what is wrong with a shard and its record as it should be; the tar's own hash is taken for the truth."""
    path, index_path = folder / record.name, folder / record.index_name
    if not path.is_file():
        return [f"{path}: missing; restore it, or prepare the dataset again"], record
    if path.stat().st_size != record.bytes or file_hash(path) != record.xxh3_128:
        return [f"{path}: damaged (its checksum is not the manifest's); {_damage(path)}"], record
    try:
        index = rebuild_index(path)
    except Failure as failure:
        return [str(failure)], record
    problems = _verify_tokens(path, index, record, manifest)
    index_problem = _index_problem(index_path, index, record)
    checked = replace(
        record,
        blocks=len(index.token_counts),
        documents=len(index.document_ends),
        tokens=int(index.token_counts.sum()),
    )
    if index_problem and repair:
        digest, size = write_index(index_path, index)
        checked = replace(checked, index_xxh3_128=digest, index_bytes=size)
        say(escape(f"rebuilt {index_path}: {index_problem}"))
    elif index_problem:
        problems.append(f"{index_path}: {index_problem}; `headrace verify repair=true` rebuilds it")
    return problems, checked


def _damage(path: Path) -> str:
    try:
        rebuild_index(path)
    except Failure as failure:
        return str(failure).removeprefix(f"{path}: ")
    return "its structure is whole, so it is the tokens that changed"


def _verify_tokens(path: Path, index: ShardIndex, record: ShardRecord, manifest: Manifest) -> list[str]:
    if index.dtype != manifest.dtype:
        return [f"{path}: its tokens are {index.dtype}, the manifest says {manifest.dtype}"]
    if index.source != record.source:
        return [f"{path}: its documents are of the source {index.source}, the manifest says {record.source}"]
    if manifest.labelled != (index.label_offsets is not None):
        return [f"{path}: its tokens have {'no ' if manifest.labelled else ''}labels, and the manifest says otherwise"]
    shard = np.memmap(path, dtype=np.uint8, mode="r")
    documents = np.cumsum(index.document_counts)
    for offset, count, first, last in zip(
        index.token_offsets, index.token_counts, documents - index.document_counts, documents
    ):
        tokens = shard[offset : offset + count * np.dtype(index.dtype).itemsize].view(index.dtype)
        if tokens.max() >= manifest.vocabulary_size:
            return [f"{path}: token {tokens.max()} in the block at byte {offset} is not in the vocabulary"]
        if np.any(tokens[index.document_ends[first:last].astype(np.int64) - 1] != manifest.end_of_document):
            return [f"{path}: a document in the block at byte {offset} doesn't end with the end-of-document token"]
    return []


def _index_problem(path: Path, index: ShardIndex, record: ShardRecord) -> str | None:
    if not path.is_file():
        return "missing"
    try:
        if not load_index(path).same_as(index):
            return "it contradicts the shard"
    except Failure:
        return "damaged"
    return None if file_hash(path) == record.index_xxh3_128 else "its checksum is not the manifest's"


def _unlisted(folder: Path, records: Iterable[ShardRecord]) -> list[str]:
    known = {name for record in records for name in (record.name, record.index_name)}
    found = {path.name for pattern in ("*.tar", "*.idx") for path in folder.glob(pattern)}
    return [f"{folder / name}: not in the manifest" for name in sorted(found - known)]


def _verify_tokenizer(folder: Path, manifest: Manifest) -> list[str]:
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
    except UserError as error:
        return [str(error)]
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        return [f"{folder / 'tokenizer'}: not the tokenizer that the shards were made with (another fingerprint)"]
    return []


def _verify_counts(folder: Path, manifest: Manifest, repair: bool) -> list[str]:
    """Compare the manifest with its own shards; `manifest.shards` are the records as they should be."""
    stored = load_manifest(folder)
    splits = {split: _split_counts(manifest.shards, split, counts.bytes) for split, counts in manifest.splits.items()}
    fingerprint = dataset_fingerprint(manifest.shards, manifest.dtype, manifest.tokenizer_fingerprint, manifest.sources)
    correct = replace(manifest, splits=splits, fingerprint=fingerprint)
    wrong = [name for name in ("shards", "splits", "fingerprint") if getattr(correct, name) != getattr(stored, name)]
    if not wrong:
        return []
    path = folder / FILE_NAME
    if not repair:
        return [f"{path}: its {name} contradict the tars" for name in wrong]
    correct.save(folder)
    say(escape(f"mended {path}: {', '.join(wrong)}"))
    return []


def _split_counts(records: Iterable[ShardRecord], split: str, text_bytes: int) -> SplitCounts:
    mine = [record for record in records if record.split == split]
    return SplitCounts(
        documents=sum(record.documents for record in mine),
        tokens=sum(record.tokens for record in mine),
        bytes=text_bytes,
        blocks=sum(record.blocks for record in mine),
    )


def _rebuild(folder: Path) -> list[str]:
    """Make a lost manifest anew. Without its hashes the tars can only be checked for what they are."""
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
    except UserError as error:
        return [f"{folder / FILE_NAME}: lost, and can't be rebuilt without the tokenizer: {error}"]
    if gap := _first_gap(folder):
        return [f"{folder / gap}: missing; the manifest can't be rebuilt without it"]
    records: list[ShardRecord] = []
    text_bytes = dict.fromkeys(SPLITS, 0)
    sources: dict[str, SourceCounts] = {}
    dtypes, samples = set(), None
    for path in sorted(folder.glob("*.tar")):
        if not SHARD_NAME.fullmatch(path.name):
            return [f"{path}: not a name of a shard; move it away, then repair again"]
        try:
            index = rebuild_index(path)
        except Failure as failure:
            return [f"{failure}; the manifest can't be rebuilt without this shard"]
        digest, size = write_index(path.with_suffix(".idx"), index)
        split = path.name.split("-")[0]
        records.append(
            ShardRecord(
                name=path.name,
                split=split,
                source=index.source,
                bytes=path.stat().st_size,
                xxh3_128=file_hash(path),
                index_bytes=size,
                index_xxh3_128=digest,
                blocks=len(index.token_counts),
                documents=len(index.document_ends),
                tokens=int(index.token_counts.sum()),
            )
        )
        size = _text_bytes(path, index, tokenizer)
        text_bytes[split] += size
        earlier = sources.get(index.source, SourceCounts(0, 0, 0))
        sources[index.source] = SourceCounts(
            documents=earlier.documents + records[-1].documents,
            tokens=earlier.tokens + records[-1].tokens,
            bytes=earlier.bytes + size,
        )
        dtypes.add(index.dtype)
        if index.label_offsets is not None:
            samples = _kind_of_samples(path, index, samples)
    if len(dtypes) != 1:
        return [f"{folder}: its shards hold different types of tokens ({', '.join(sorted(dtypes))})"]
    dtype = dtypes.pop()
    if (folder / FILE_NAME).exists():
        os.replace(folder / FILE_NAME, folder / f"{FILE_NAME}.damaged")
    Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=dataset_fingerprint(records, dtype, tokenizer.fingerprint, sources),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_document=tokenizer.end_of_document,
        dtype=dtype,
        splits={split: _split_counts(records, split, text_bytes[split]) for split in SPLITS},
        sources=sources,
        shards=records,
        settings={"rebuilt": "from the shards; the settings are lost"},
        stages={},
        samples=samples,
    ).save(folder)
    say(escape(f"rebuilt {folder / FILE_NAME} from {len(records)} shards; settings and old hashes are lost"))
    return verify_dataset(folder)


def _kind_of_samples(path: Path, index: ShardIndex, found: str | None) -> str:
    """Return which kind of samples there are, with those of one more shard."""
    assert index.label_offsets is not None
    shard = np.memmap(path, dtype=np.uint8, mode="r")
    for offset, count in zip(index.label_offsets, index.token_counts):
        labels = shard[offset : offset + count]
        if np.any(labels & REJECTED):
            return PREFERENCES
        if np.any(labels & EXPECTED):
            return PROBLEMS
    return found or ANSWERS


def _first_gap(folder: Path) -> str | None:
    """Return the first shard that is missing between others. One missing behind the last leaves no trace."""
    for split in SPLITS:
        count = len(list(folder.glob(f"{split}-*.tar")))
        for number in range(count):
            if not (folder / f"{split}-{number:06d}.tar").is_file():
                return f"{split}-{number:06d}.tar"
    return None


def _text_bytes(path: Path, index: ShardIndex, tokenizer: Tokenizer) -> int:
    """Return the UTF-8 bytes of a shard's text, by decoding it."""
    shard = np.memmap(path, dtype=np.uint8, mode="r")
    total = first = 0
    for offset, count, documents in zip(index.token_offsets, index.token_counts, index.document_counts):
        tokens = shard[offset : offset + count * np.dtype(index.dtype).itemsize].view(index.dtype)
        ends = index.document_ends[first : first + documents]
        starts = np.concatenate(([0], ends[:-1]))
        for start, end in zip(starts, ends):
            total += len(tokenizer.decode(tokens[start : end - 1].tolist()).encode())
        first += documents
    return total
