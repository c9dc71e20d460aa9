"""Shards of raw text made by others, tokenized on the fly: for a first try, or where text never lies still.

Only what plain webdataset promises is promised here: each rank reads its own shards in an order of chance, documents
are shuffled in a buffer, and a run that is started again begins another order. Documents can be seen twice or not at
all, and another world size sees others. `headrace prepare` turns the same shards into a dataset that is exact.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import webdataset
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.markup import escape

from data_pipeline.curriculum import Segment, Steps
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.progress import say
from data_pipeline.loader import CHUNKS_AHEAD, Chunk, Share, batches_of_steps, chunks_of_steps, read_ahead
from data_pipeline.permutation import permutation
from data_pipeline.pieces import Numbers
from data_pipeline.raw_settings import RawConfig
from data_pipeline.readers.document import Document, Unit
from data_pipeline.readers.files import Files
from data_pipeline.sequences import Rows
from data_pipeline.tokenization.encoding import EncodersDifferError, FastEncoder, why_not_fast
from data_pipeline.tokenization.tokenizer import Tokenizer

DOCUMENTS_TOGETHER = 64
PROOF_DOCUMENTS = 64
CHUNK_TOKENS = 1 << 16
"""Steps are read together until they have as many tokens: encoding takes its time, and nobody should wait for it."""


class RawText:
    """An endless stream of steps.

    Args:
        config: what is read, and how.
        segments: of the run.
        seed: of the run.

    Raises:
        UserError: no files, or of an unknown kind.
    """

    def __init__(self, config: RawConfig, tokenizer: Tokenizer, segments: Sequence[Segment], seed: int):
        self.tokenizer, self.steps, self.seed = tokenizer, Steps(segments), seed
        self._config, self._files = config, Files(config, "raw", "data.raw")
        self.shards = [Unit(unit.source, (piece,), unit.bytes) for unit in self._files.units() for piece in unit.pieces]

    def stream(self, share: Share, first_step: int) -> webdataset.DataPipeline:
        """Return the steps of a rank from one on, each a list of micro-batches.

        Raises:
            UserError: fewer shards than ranks; from reading, a text that can't be read.
            Failure: from reading, a whole pass without any text.
        """
        if len(self.shards) < share.ranks:
            raise UserError(
                f"data.raw.paths: {len(self.shards)} shards can't be divided among {share.ranks} ranks: give at least "
                "as many, or prepare them as a dataset"
            )
        draw = random.Random(f"{self.seed} {first_step} {share.rank}")
        return webdataset.DataPipeline(
            lambda: self._documents(share, first_step),
            webdataset.shuffle(self._config.buffer, initial=min(self._config.buffer, 100), rng=draw),
            self._encoded,
            lambda documents: self._chunks(documents, share, first_step),
            lambda chunks: read_ahead(chunks, CHUNKS_AHEAD),
            lambda chunks: (batches for chunk in chunks for batches in batches_of_steps(chunk, share.micro)),
        )

    def held_out(self, length: int, sequences: int | None) -> HeldOutText | None:
        """Read the text that is measured on; None where none is named.

        Args:
            length: T of its sequences.
            sequences: the first ones that are kept, in memory; all of them if None.

        Raises:
            UserError: less than one sequence, or a text that can't be read.
        """
        if not self._config.validation:
            return None
        files = Files(replace(self._config, paths=self._config.validation), "validation", "data.raw")
        texts = (item.text for unit in files.units() for item in files.read(unit) if isinstance(item, Document))
        ends: list[int] = []
        parts: list[NDArray] = []
        size = 0
        for document in self._encoded(texts):
            parts.append(document)
            size += len(document)
            ends.append(size)
            if sequences is not None and size > sequences * length:
                break
        if size <= length:
            raise UserError(f"data.raw.validation: {size} tokens are less than one sequence of {length} + 1")
        count = (size - 1) // length
        rows = _rows(np.concatenate(parts), np.array(ends), min(count, sequences or count), length)
        return HeldOutText(rows, length)

    def _documents(self, share: Share, first_step: int) -> Iterator[str]:
        """Yield the texts of a rank's shards, pass after pass, each in another order."""
        for epoch in itertools.count():
            order = permutation(len(self.shards), "raw", self.seed, first_step, epoch)
            found = False
            for number in order[share.rank :: share.ranks]:
                for item in self._files.read(self.shards[number]):
                    if isinstance(item, Document):
                        found = True
                        yield item.text
            if not found:
                raise Failure("data.raw.paths: a whole pass over this rank's shards has found no text")

    def _encoded(self, texts: Iterator[str]) -> Iterator[NDArray]:
        """Yield each document's tokens, by the fast encoder for as long as it proves equal to the reference."""
        proof = list(itertools.islice(texts, PROOF_DOCUMENTS))
        fast = FastEncoder(self.tokenizer) if why_not_fast(self.tokenizer, proof) is None else None
        rest = itertools.chain(proof, texts)
        while together := list(itertools.islice(rest, DOCUMENTS_TOGETHER)):
            try:
                encoded = fast.encode(together) if fast else map(self.tokenizer.encode, together)
            except EncodersDifferError as difference:
                say(escape(f"encoding with tokenizers from here on: {difference}"))
                fast, encoded = None, map(self.tokenizer.encode, together)
            for ids in encoded:
                yield np.append(np.asarray(ids, np.uint32), np.uint32(self.tokenizer.end_of_document))

    def _chunks(self, documents: Iterator[NDArray], share: Share, first_step: int) -> Iterator[Chunk]:
        """Lay documents end to end and cut the line every T tokens; the last of one sequence begins the next."""
        line: list[NDArray] = []
        size = 0
        for steps in chunks_of_steps(self.steps, share, first_step, CHUNK_TOKENS):
            rows, length = sum(map(len, steps)), self.steps.segment(first_step).length
            while size <= rows * length:
                line.append(next(documents))
                size += len(line[-1])
            tokens, first_step = np.concatenate(line), first_step + len(steps)
            ends = np.cumsum([len(document) for document in line])
            yield Chunk(steps, _rows(tokens, ends, rows, length))
            line = [tokens[rows * length :]]
            size = len(line[0])


class HeldOutText:
    """Sequences that are kept in memory, to measure the same ones again and again.

    Args:
        rows: all of them.
        length: T.
    """

    def __init__(self, rows: Rows, length: int):
        self._rows, self.length = rows, length

    @property
    def per_epoch(self) -> int:
        return len(self._rows.tokens)

    def read(self, numbers: Numbers, with_documents: bool = False) -> Rows:
        """Return sequences by their numbers."""
        assert self._rows.document_ends is not None
        ends = [self._rows.document_ends[number] for number in numbers]
        return Rows(self._rows.tokens[numbers], None, ends if with_documents else None)

    def rest(self) -> None:
        """Do nothing: what is in memory stays there."""


def _rows(tokens: NDArray, ends: NDArray[np.int64], rows: int, length: int) -> Rows:
    cut = sliding_window_view(tokens, length + 1)[: rows * length : length]
    bounds = np.searchsorted(ends, np.arange(rows + 1) * length, side="right")
    document_ends = []
    for row in range(rows):
        within = ends[bounds[row] : bounds[row + 1]] - row * length
        document_ends.append([*within[within < length].tolist(), length])
    return Rows(cut, None, document_ends)
