"""The shard format: WebDataset tars of token blocks, and the index that lets them be mapped into memory.

A sample is a block of whole documents: `KEY.tokens.npy` (1-D, uint16 or uint32) and `KEY.ends.npy` (uint32, the
exclusive ends of the documents in the block; the last one is the number of tokens); where provenance is kept
`KEY.json`, a list of where each document came from; and of samples to be tuned on `KEY.labels.npy` (uint8), a label for
every token. Tar members start at multiples of 512 bytes and their npy header has 128, so tokens always lie at multiples
of 64 bytes. All documents of a shard are of one source; the owner of every member, as the tar format calls it, is the
source's name.

An index, `NAME.idx`, is a safetensors file with the offsets, counts and document ends of all blocks. It holds nothing
that the tar doesn't: `rebuild_index` makes it from the tar alone, and that is also how it is made in the first place.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import hashed_file
from data_pipeline.manifest import DTYPES, ShardRecord

RECORD_BYTES = 512
ALIGNMENT_BYTES = 64
LARGEST_BLOCK = 2**32 - 1
INDEX_FORMAT = "headrace-index-2"
NPY_HEADER_BYTES = 128
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '[<|]u([124])', 'fortran_order': False, 'shape': \((\d+),\), \} *\n"
)
"""What numpy writes before a 1-D array of uint8, uint16 or uint32, always 128 bytes. Read by ourselves, since numpy's
reader evaluates it, and mends what is damaged."""
MEMBER_NAME = re.compile(r"\d{8}\.(ends\.npy|json|labels\.npy|tokens\.npy)")
ENDS, PROVENANCE, LABELS, TOKENS = ".ends.npy", ".json", ".labels.npy", ".tokens.npy"
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
"""A tar header has 32 bytes for the owner's name, with a zero behind it."""


@dataclass(frozen=True)
class Block:
    """Whole documents behind one another.

    Args:
        tokens: (tokens,) uint16 or uint32; every document ends with the end-of-document token.
        ends: (documents,) exclusive ends of the documents; the last one is `len(tokens)`.
        keys: where each document came from, or None where that isn't kept.
        labels: (tokens,) uint8 of samples' tokens, see `readers.document`; None of running text.
    """

    tokens: NDArray
    ends: NDArray[np.uint32]
    keys: list[str] | None = None
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class ShardIndex:
    """Where the tokens and documents of a shard lie.

    Args:
        token_offsets: (blocks,) byte offset in the tar of each block's first token.
        token_counts: (blocks,) tokens per block.
        document_counts: (blocks,) documents per block.
        document_ends: (documents,) exclusive ends within their block, all blocks behind one another.
        provenance_offsets, provenance_sizes: (blocks,) where the JSON list of document keys lies; of size 0 without.
        dtype: of the tokens, `uint16` or `uint32`.
        source: of the documents.
        label_offsets: (blocks,) byte offset of each block's first label; None of running text.
    """

    token_offsets: NDArray[np.int64]
    token_counts: NDArray[np.int64]
    document_counts: NDArray[np.int64]
    document_ends: NDArray[np.uint32]
    provenance_offsets: NDArray[np.int64]
    provenance_sizes: NDArray[np.int64]
    dtype: str
    source: str
    label_offsets: NDArray[np.int64] | None = None

    def same_as(self, other: ShardIndex) -> bool:
        mine, theirs = self.arrays(), other.arrays()
        same = (self.dtype, self.source, set(mine)) == (other.dtype, other.source, set(theirs))
        return same and all(np.array_equal(mine[name], theirs[name]) for name in mine)

    def arrays(self) -> dict[str, NDArray]:
        arrays = {name: getattr(self, name) for name in _INDEX_ARRAYS}
        return arrays if self.label_offsets is None else {**arrays, _LABELS: self.label_offsets}


_INDEX_ARRAYS = {
    "token_offsets": np.dtype(np.int64),
    "token_counts": np.dtype(np.int64),
    "document_counts": np.dtype(np.int64),
    "document_ends": np.dtype(np.uint32),
    "provenance_offsets": np.dtype(np.int64),
    "provenance_sizes": np.dtype(np.int64),
}
_LABELS = "label_offsets"


def write_shard(folder: Path, split: str, number: int, source: str, blocks: Iterable[Block]) -> ShardRecord:
    """Write a shard and its index; the same blocks always give the same bytes.

    Raises:
        ValueError: a block's ends don't close with its tokens, it is too large for the format, or the source's name
            is none.
    """
    webdataset = _webdataset()
    if not SOURCE_NAME.fullmatch(source):
        raise ValueError(f"{source!r} can't be the name of a source")

    path = folder / f"{split}-{number:06d}.tar"
    with hashed_file(path) as file:
        with webdataset.TarWriter(file, user=source, group="", mode=0o444, mtime=0) as writer:
            for position, block in enumerate(blocks):
                _check_block(block)
                sample = {"tokens.npy": block.tokens, "ends.npy": block.ends.astype(np.uint32)}
                provenance = {} if block.keys is None else {"json": _provenance(block.keys)}
                labels = {} if block.labels is None else {"labels.npy": block.labels}
                writer.write({"__key__": f"{position:08d}", **sample, **provenance, **labels})
        digest, size = file.hexdigest, file.bytes
    index = rebuild_index(path)
    index_digest, index_size = write_index(path.with_suffix(".idx"), index)
    return ShardRecord(
        name=path.name,
        split=split,
        source=source,
        bytes=size,
        xxh3_128=digest,
        index_bytes=index_size,
        index_xxh3_128=index_digest,
        blocks=len(index.token_counts),
        documents=len(index.document_ends),
        tokens=int(index.token_counts.sum()),
    )


def _webdataset() -> Any:
    """Return webdataset. It can write without torch, which takes seconds to load, so a worker does without."""
    is_worker = multiprocessing.parent_process() is not None
    if not is_worker or "torch" in sys.modules or "webdataset" in sys.modules:
        import webdataset

        return webdataset
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import webdataset
    finally:
        del sys.modules["torch"]
    return webdataset


def write_index(path: Path, index: ShardIndex) -> tuple[str, int]:
    """Write an index file; return its hash and its bytes."""
    from safetensors.numpy import save

    beside = path.with_name(path.name + ".tmp")
    with hashed_file(beside) as file:
        # One entry only: safetensors writes several in an order that differs from process to process.
        file.write(save(index.arrays(), metadata={INDEX_FORMAT: f"{index.dtype} {index.source}"}))
    os.replace(beside, path)
    return file.hexdigest, file.bytes


def load_index(path: Path) -> ShardIndex:
    """Read an index file.

    Raises:
        Failure: it is missing, damaged, or contradicts itself.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = [*_INDEX_ARRAYS, *({_LABELS} & set(file.keys()))]
            arrays = {name: file.get_tensor(name) for name in names}
        if INDEX_FORMAT not in metadata:
            raise ValueError(f"it is not of the format {INDEX_FORMAT}")
        dtype, _, source = metadata[INDEX_FORMAT].partition(" ")
        index = ShardIndex(**arrays, dtype=dtype, source=source)
        _check_index(index)
        return index
    except (OSError, SafetensorError, ValueError) as error:
        raise Failure(
            f"{path}: the index can't be used: {error}; rebuild it with `headrace verify repair=true`"
        ) from None


def stand_in_index(record: ShardRecord, dtype: str) -> ShardIndex:
    """Return an index of a shard of which only its record is known: blocks of like lengths, without documents."""
    nothing = np.zeros(record.blocks, np.int64)
    return ShardIndex(
        token_offsets=nothing,
        token_counts=np.diff(np.arange(record.blocks + 1) * record.tokens // record.blocks),
        document_counts=nothing,
        document_ends=np.zeros(0, np.uint32),
        provenance_offsets=nothing,
        provenance_sizes=nothing,
        dtype=dtype,
        source=record.source,
    )


def rebuild_index(path: Path) -> ShardIndex:
    """Walk a shard's tar, check every header, and return its index.

    Stricter than tar readers, which take a damaged header for the end of the archive: nothing but plain files with
    the names that we write is let through, in the order in which we write them.

    Raises:
        Failure: the tar is missing, cut short, damaged, or holds anything else.
    """
    blocks: list[_BlockLayout] = []
    try:
        with open(path, "rb") as file:
            for members in _samples(_members(file)):
                blocks.append(_block_layout(file, members))
        dtypes, sources = {block.dtype for block in blocks}, {block.source for block in blocks}
        if len(dtypes) != 1 or not dtypes <= set(DTYPES):
            raise ValueError(f"its tokens are {', '.join(sorted(dtypes)) or 'missing'}")
        if len({block.labels is None for block in blocks}) != 1:
            raise ValueError("some of its blocks have labels and some have none")
        if len(sources) != 1 or not SOURCE_NAME.fullmatch(next(iter(sources))):
            raise ValueError(f"its documents are of the sources {', '.join(sorted(sources))}, not of one")
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: the shard is damaged: {error}") from None
    return ShardIndex(
        token_offsets=np.array([block.offset for block in blocks], np.int64),
        token_counts=np.array([block.tokens for block in blocks], np.int64),
        document_counts=np.array([len(block.ends) for block in blocks], np.int64),
        document_ends=np.concatenate([block.ends for block in blocks]),
        provenance_offsets=np.array([block.provenance.offset for block in blocks], np.int64),
        provenance_sizes=np.array([block.provenance.size for block in blocks], np.int64),
        dtype=dtypes.pop(),
        source=sources.pop(),
        label_offsets=None if blocks[0].labels is None else np.array([block.labels for block in blocks], np.int64),
    )


def read_provenance(path: Path, index: ShardIndex, block: int) -> list[str] | None:
    """Return where the documents of a block came from, or None where that isn't kept.

    Raises:
        Failure: it is damaged.
    """
    size = int(index.provenance_sizes[block])
    if not size:
        return None
    with open(path, "rb") as file:
        file.seek(int(index.provenance_offsets[block]))
        try:
            keys = json.loads(file.read(size))
            if len(keys) != index.document_counts[block] or not all(isinstance(key, str) for key in keys):
                raise ValueError("it doesn't have a key for each document")
        except ValueError as error:
            raise Failure(f"{path}: the provenance of block {block} is damaged: {error}") from None
    return keys


def _provenance(keys: list[str]) -> bytes:
    return json.dumps(keys, ensure_ascii=False).encode()


@dataclass(frozen=True)
class _BlockLayout:
    offset: int
    tokens: int
    ends: NDArray[np.uint32]
    dtype: str
    source: str
    provenance: _Member
    labels: int | None


def _samples(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    """Yield the members of each sample. Raises ValueError where one is missing, too many or out of order."""
    for position, (key, group) in enumerate(itertools.groupby(members, lambda member: member.name.split(".")[0])):
        sample = list(group)
        suffixes = [member.name.removeprefix(key) for member in sample]
        if key != f"{position:08d}" or suffixes not in _LAYOUTS:
            raise ValueError(f"members {', '.join(member.name for member in sample)} where {position:08d}.* should be")
        yield sample


def _block_layout(file: BinaryIO, sample: list[_Member]) -> _BlockLayout:
    by_suffix = {member.name[member.name.index(".") :]: member for member in sample}
    tokens_member = by_suffix[TOKENS]
    ends = _read_npy(file, by_suffix[ENDS])
    dtype, count, offset = _npy_layout(file, tokens_member)
    _check_ends(ends, count)
    labels = None
    if LABELS in by_suffix:
        kind, labelled, labels = _npy_layout(file, by_suffix[LABELS])
        if (kind, labelled) != ("uint8", count):
            raise ValueError(f"{by_suffix[LABELS].name} doesn't have one uint8 for each of {count} tokens")
    if len({member.source for member in sample}) > 1:
        raise ValueError(f"the members of {tokens_member.name} are of different sources")
    provenance = by_suffix.get(PROVENANCE, _Member("", 0, 0, ""))
    return _BlockLayout(offset, count, ends, dtype, tokens_member.source, provenance, labels)


_LAYOUTS = [[ENDS, *kept, *labels, TOKENS] for kept in ([], [PROVENANCE]) for labels in ([], [LABELS])]
"""The members that a sample may have, in the order of their names."""


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int
    source: str


def _members(file: BinaryIO) -> Iterator[_Member]:
    """Yield the members of a USTAR archive. Raises ValueError at the first byte that we wouldn't have written."""
    size = os.fstat(file.fileno()).st_size
    at = 0
    while True:
        file.seek(at)
        header = file.read(RECORD_BYTES)
        if len(header) < RECORD_BYTES:
            raise ValueError(f"it is cut short at byte {at + len(header)}")
        if not any(header):
            break
        member = _parse_header(header, at)
        at = member.offset + -(-member.size // RECORD_BYTES) * RECORD_BYTES
        if at > size:
            raise ValueError(f"it is cut short within {member.name}")
        yield member
    if size - at < 2 * RECORD_BYTES:
        raise ValueError("it is cut short within its end mark")
    file.seek(at)
    if any(file.read()):
        raise ValueError(f"there is something behind its end mark at byte {at}")


def _parse_header(header: bytes, at: int) -> _Member:
    # POSIX.1-1988 ustar: name 0-99, size 124-135, checksum 148-155 (itself counted as spaces), type 156, magic 257-262,
    # owner's name 265-296.
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156]) != expected:
        raise ValueError(f"the tar header at byte {at} doesn't match its checksum")
    if header[257:263] != b"ustar\0" or header[156:157] != b"0":
        raise ValueError(f"the tar member at byte {at} is not a plain file")
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    if not MEMBER_NAME.fullmatch(name) or any(header[345:500]):
        raise ValueError(f"unexpected member {name!r} at byte {at}")
    source = header[265:297].rstrip(b"\0").decode("ascii", "replace")
    return _Member(name, at + RECORD_BYTES, _octal(header[124:136]), source)


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError(f"{field!r} is not a number of a tar header")
    return int(digits, 8)


def _npy_layout(file: BinaryIO, member: _Member) -> tuple[str, int, int]:
    """Return the dtype, length and byte offset of the 1-D array in an npy member."""
    file.seek(member.offset)
    header = NPY_HEADER.fullmatch(file.read(NPY_HEADER_BYTES))
    if header is None:
        raise ValueError(f"{member.name} doesn't start as a 1-D array of unsigned numbers")
    item_bytes, count, offset = int(header[1]), int(header[2]), member.offset + NPY_HEADER_BYTES
    if offset + count * item_bytes != member.offset + member.size:
        raise ValueError(f"{member.name} doesn't have the bytes that its header promises")
    return f"uint{8 * item_bytes}", count, offset


def _read_npy(file: BinaryIO, member: _Member) -> NDArray[np.uint32]:
    dtype, count, offset = _npy_layout(file, member)
    if dtype != "uint32":
        raise ValueError(f"{member.name} holds {dtype}, not uint32")
    file.seek(offset)
    return np.frombuffer(file.read(count * 4), np.uint32)


def _check_block(block: Block) -> None:
    if block.tokens.dtype.name not in DTYPES or block.tokens.ndim != 1:
        raise ValueError(f"tokens are {block.tokens.dtype} with {block.tokens.ndim} dimensions")
    if len(block.tokens) > LARGEST_BLOCK:
        raise ValueError(f"a document of {len(block.tokens):,} tokens is too long for a shard")
    if block.labels is not None and (block.labels.dtype != np.uint8 or len(block.labels) != len(block.tokens)):
        raise ValueError("labels must be uint8, one for each token")
    _check_ends(block.ends, len(block.tokens))


def _check_ends(ends: NDArray, tokens: int) -> None:
    if len(ends) == 0 or ends[-1] != tokens or ends[0] == 0 or np.any(ends[1:] <= ends[:-1]):
        raise ValueError(f"document ends don't divide its block of {tokens} tokens")


def _check_index(index: ShardIndex) -> None:
    for name, array in index.arrays().items():
        dtype = _INDEX_ARRAYS.get(name, np.dtype(np.int64))
        if array.ndim != 1 or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} with {array.ndim} dimensions")
    blocks = len(index.token_offsets)
    by_block = [index.token_counts, index.document_counts, index.provenance_offsets, index.provenance_sizes]
    if index.label_offsets is not None:
        by_block.append(index.label_offsets)
    if index.dtype not in DTYPES or any(len(array) != blocks for array in by_block):
        raise ValueError("its parts don't fit together")
    if np.any(index.document_counts < 1) or index.document_counts.sum() != len(index.document_ends):
        raise ValueError("it doesn't have as many documents as its blocks")
    lasts = index.document_ends[np.cumsum(index.document_counts) - 1]
    if np.any(lasts != index.token_counts) or np.any(index.token_offsets % ALIGNMENT_BYTES):
        raise ValueError("its blocks don't end with a document")
