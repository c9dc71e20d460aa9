"""What a run learns from and is measured on: a dataset, or raw text as it comes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from data_pipeline.curriculum import Segment, Steps
from data_pipeline.dataset import check_cache, open_dataset, open_in_storage_order, open_training
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import shown
from data_pipeline.loader import Share
from data_pipeline.raw import RawText
from data_pipeline.sequences import Sequences, SequenceSource
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from data_pipeline.tokenization.tokenizer_file import TokenizerFileConfig, open_tokenizer
from train.distributed import World
from train.settings import TrainConfig
from train.stream import DatasetStream, RawStream, Stream


class RunData(Protocol):
    """What a run needs to know of its data.

    Args:
        name: for a person.
        fingerprint: of what is in it, as far as that can be known.
        steps: which sequences are read in which step.
        held_out: to measure on; None where there is nothing.
        samples: which kind of samples it is made of; None where it is running text.
    """

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    steps: Steps
    held_out: SequenceSource | None
    samples: str | None

    def describe(self, steps: int) -> str:
        """Return on one line what a run of so many steps sees of it."""
        ...

    def stream(self, share: Share, with_documents: bool, world: World, lost: Collection[str]) -> Stream:
        """Return a rank's stream of steps; close it to end its reading ahead.

        Args:
            with_documents: tell where documents end.
            lost: bad files whose shards have been left out before.
        """
        ...


def open_run_data(config: TrainConfig, segments: Sequence[Segment]) -> RunData:
    """Open what the settings name.

    Raises:
        UserError: it isn't there, or doesn't fit the settings.
        Failure: it is damaged, or its server can't be reached.
    """
    return RawData(config, segments) if config.data.raw.paths else DatasetData(config, segments)


class DatasetData:
    """A dataset that `headrace prepare` wrote: every sequence of an epoch once, in the same order at every start."""

    def __init__(self, config: TrainConfig, segments: Sequence[Segment]):
        self._config, self._segments = config, segments
        self._dataset = open_dataset(config.data)
        files, manifest = self._dataset.files, self._dataset.manifest
        self.name, self.fingerprint = files.name, manifest.fingerprint
        self.samples = manifest.samples
        self.tokenizer = load_tokenizer(files.folder / "tokenizer")
        if self.tokenizer.fingerprint != manifest.tokenizer_fingerprint:
            raise UserError(
                f"{self.name}/tokenizer is not the tokenizer that the dataset's tokens were made with: "
                "restore it, or prepare the dataset again"
            )
        self._training = self._open(())
        self.steps = self._training.order.steps
        validation = open_in_storage_order(self._dataset, config.validation.split)
        self.held_out: SequenceSource | None = validation
        check_cache(self._dataset, self._training, validation)
        for split in (self._training, validation) if config.data.bad_shards == "stop" else (validation,):
            split.store.require_files()

    def describe(self, steps: int) -> str:
        order = self._training.order
        passes = (
            f"{count / line.length:.2f} epochs" + (f" of {source}" if source else "")
            for source, count, line in zip(self._training.sources, order.consumed(steps), order.lines)
        )
        tokens = self._dataset.manifest.splits["train"].tokens
        return f"{self.name}: {tokens:,} tokens to train on; {', '.join(passes)}"

    def stream(self, share: Share, with_documents: bool, world: World, lost: Collection[str]) -> Stream:
        may_leave_out = self._config.data.bad_shards == "leave_out"
        return DatasetStream(self._training, self._open, share, with_documents, world, may_leave_out, lost)

    def _open(self, lost: Collection[str]) -> Sequences:
        return open_training(self._dataset, self._config.seed, self._segments, self._config.steps, lost)


class RawData:
    """Raw text, with the guarantees of plain webdataset."""

    samples: str | None = None

    def __init__(self, config: TrainConfig, segments: Sequence[Segment]):
        raw = config.data.raw
        assert raw.tokenizer is not None
        self.tokenizer = open_tokenizer(TokenizerFileConfig(raw.tokenizer))
        self.name = ", ".join(shown(path) for path in raw.paths)
        # What is in the text is for nobody to know before it has been read, and it may change.
        self.fingerprint = f"raw text by {self.tokenizer.fingerprint}"
        self._text = RawText(raw, self.tokenizer, segments, config.seed)
        self.steps = self._text.steps
        held_out = self._text.held_out(config.data.sequence_length, config.validation.sequences)
        self.held_out: SequenceSource | None = held_out

    def describe(self, steps: int) -> str:
        size = sum(shard.bytes for shard in self._text.shards) / 1e6
        return (
            f"{self.name}: {len(self._text.shards)} shards of raw text, {size:,.1f} MB; text may be seen twice or not "
            "at all when a run is started again or its ranks change"
        )

    def stream(self, share: Share, with_documents: bool, world: World, lost: Collection[str]) -> Stream:
        return RawStream(self._text, share)
