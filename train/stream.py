"""A rank's stream of steps, and how all ranks agree to go on without shards that are bad for one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from data_pipeline.foundation.errors import Failure
from data_pipeline.loader import Batch, Share, stream
from data_pipeline.raw import RawText
from data_pipeline.sequences import Sequences
from data_pipeline.storage.dataset_files import BadFile
from train.distributed import World


@dataclass(frozen=True)
class LeftOut:
    """A shard that a run goes on without.

    Args:
        file: the one of its files that is bad.
        reason: for a person.
        sequences, tokens: that nothing is learnt from in each epoch, the sequences about.
    """

    file: str
    reason: str
    sequences: int
    tokens: int


class Stream(Protocol):
    """The steps of a rank, one after another."""

    @property
    def lost(self) -> list[str]:
        """Bad files whose shards are left out."""
        ...

    def next(self, step: int) -> tuple[list[Batch], list[LeftOut]]:
        """Return the micro-batches of the step that follows `step`, and what all ranks leave out from it on.

        Steps must be asked for one after another. Every rank calls it.
        """
        ...

    def close(self) -> None:
        """End the reading ahead."""
        ...


class RawStream:
    """The steps of a rank in raw text."""

    def __init__(self, text: RawText, share: Share):
        self.lost: list[str] = []
        self._text, self._share = text, share
        self._steps: Iterator[list[Batch]] | None = None

    def next(self, step: int) -> tuple[list[Batch], list[LeftOut]]:
        if self._steps is None:
            self._steps = iter(self._text.stream(self._share, step))
        return next(self._steps), []

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()  # type: ignore[attr-defined]
            self._steps = None


class DatasetStream:
    """The steps of a rank in a dataset.

    A shard that is left out changes nothing in the order: its tokens are there, and nothing is learnt from them. So
    all ranks can open the order anew without it, in the middle of a run, and go on at the same step.

    Args:
        sequences: of the training split.
        reopen: opens it without the shards of bad files.
        share: of the steps.
        with_documents: tell where documents end.
        may_leave_out: go on without a bad shard, instead of stopping.
        lost: bad files whose shards have been left out before.
    """

    def __init__(
        self,
        sequences: Sequences,
        reopen: Callable[[Collection[str]], Sequences],
        share: Share,
        with_documents: bool,
        world: World,
        may_leave_out: bool,
        lost: Collection[str] = (),
    ):
        self.lost = sorted(lost)
        self._sequences = reopen(self.lost) if lost else sequences
        self._reopen, self._share, self._with_documents = reopen, share, with_documents
        self._world, self._may_leave_out = world, may_leave_out
        self._steps: Iterator[list[Batch]] | None = None

    def next(self, step: int) -> tuple[list[Batch], list[LeftOut]]:
        """See `Stream.next`.

        Raises:
            BadFile: a shard is bad, and it may not be left out.
            Failure: it can't be left out, or none would be left.
        """
        left_out: list[LeftOut] = []
        while True:
            batches, bad = self._read(step)
            if not self._may_leave_out or not self._world.any(bad is not None):
                return batches, left_out
            left_out += self._leave_out(step, bad)

    def close(self) -> None:
        """End the reading ahead."""
        if self._steps is not None:
            self._steps.close()  # type: ignore[attr-defined]
            self._steps = None

    def _read(self, step: int) -> tuple[list[Batch], BadFile | None]:
        if self._steps is None:
            self._steps = iter(stream(self._sequences, self._share, step, self._with_documents))
        try:
            return next(self._steps), None
        except BadFile as error:
            if not self._may_leave_out:
                raise
            return [], error

    def _leave_out(self, step: int, bad: BadFile | None) -> list[LeftOut]:
        """Agree with the other ranks on the shards that are bad for any, and open the order without them."""
        self.close()
        reasons: dict[str, str] = {}
        for told in self._world.gather(bad and (bad.name, str(bad))):
            if told:
                reasons.setdefault(*told)
        shards = {file: self._sequences.store.shard_of(file) for file in sorted(reasons)}
        self._world.on_main(lambda: self._require_order(shards, reasons, step))
        self.lost = sorted({*self.lost, *shards})
        self._sequences = self._reopen(self.lost)
        self._world.on_main(self._require_shards)
        return [LeftOut(file, reasons[file], *self._sequences.per_epoch_of(shard)) for file, shard in shards.items()]

    def _require_order(self, shards: dict[str, int], reasons: dict[str, str], step: int) -> None:
        store = self._sequences.store
        for file, shard in shards.items():
            if file == store.shards[shard].index_name and self._sequences.begun(shard, step):
                raise Failure(
                    f"{reasons[file]}. Its shard can't be left out: the order of what has been begun to be read "
                    "depends on its index"
                )

    def _require_shards(self) -> None:
        store = self._sequences.store
        if len(store.left_out) == len(store.shards):
            raise Failure(f"{store.files.name}: every shard to train on is bad: {', '.join(self.lost)}")
