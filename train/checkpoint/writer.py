"""Saving: every rank its part beside the others', while training goes on; published by one rename after all agree."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from data_pipeline.foundation.background import Background, done_into
from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import fresh_folder, json_bytes, whole_file
from train.checkpoint.folder import (
    FORMAT_VERSION,
    MODEL,
    TOKENIZER,
    TRAINER,
    CheckpointManifest,
    checkpoint_name,
    clear_debris,
    lacking_room,
    manifest_bytes,
    publish_checkpoint,
)
from train.checkpoint.part import HostCopy, Part, entry
from train.checkpoint.pieces import elements_of, owned_pieces, state_of
from train.checkpoint.retention import Retention, remove_old
from train.checkpoint.save import CheckpointContext, TrainerState, random_state
from train.engine import Engine

POLL_SECONDS = 0.05


@dataclass
class _Pending:
    """A save under way: first every rank writes, then rank 0 publishes."""

    step: int
    staged: Path
    final: Path
    work: Future[Any]
    publishing: bool = False


class CheckpointWriter:
    """Writes the checkpoints of one run.

    A save in the background stands still only for a copy of the state in host memory; a thread of each rank writes
    the copy. There is one copy and one save at a time: a save that is due while an earlier one is still being written
    waits for it. Collectives are called by the caller's thread alone, in `save`, `poll` and `wait`, which every rank
    must call alike; so they can't get between those of training.

    Args:
        rules: which earlier checkpoints stay when a new one is published.
        in_use: tells which checkpoints something else is reading, and must stay.
        background: take the room for a copy; without it every save is written before `save` returns.
    """

    def __init__(
        self,
        engine: Engine,
        context: CheckpointContext,
        rules: Retention,
        background: bool = False,
        in_use: Callable[[], Collection[Path]] = tuple,
    ):
        self._engine, self._context, self._rules, self._in_use = engine, context, rules, in_use
        self._world = engine.world
        self._pending: _Pending | None = None
        self._thread: Background | None = None
        if background:
            self._copy = HostCopy(elements_of(engine, owned_pieces(engine)), self._world.device)
            self._thread = Background("checkpoint")

    def save(self, state: TrainerState, background: bool = False) -> Path | None:
        """Write a checkpoint of the present state, or begin to. Call `wait` before it.

        Args:
            background: return as soon as the state is copied; needs the writer to be made for it.

        Returns:
            the published folder, or None if `poll` or `wait` will publish it.

        Raises:
            Failure: there is no room on the disk, and nothing was written; or some rank could not write. Nothing is
                published and earlier checkpoints are as they were.
        """
        assert self._pending is None
        final = self._context.folder / checkpoint_name(state.step)
        staged = final.with_name(final.name + ".tmp")
        part = self._part(state)
        sizes = self._world.gather(part.sizes())
        if problem := self._world.from_main(self._stage(staged, state.step, sizes) if self._world.is_main else None):
            raise _not_saved(final, problem)
        if background:
            part = self._copy.of(part)
        self._pending = _Pending(state.step, staged, final, self._run(lambda: part.write(staged), background))
        return None if background else self.wait()

    def poll(self) -> Path | None:
        """Go on with the save under way if no rank has to wait for it; return the folder once it is published.

        Raises:
            Failure: as `save` does.
        """
        if self._pending is None or self._world.any(not self._pending.work.done()):
            return None
        return self._advance(background=True)

    def wait(self) -> Path | None:
        """See the save under way to its end, if there is one; return the published folder.

        Raises:
            Failure: as `save` does.
        """
        published = None
        while self._pending is not None:
            published = self._advance(background=False)
        return published

    def abandon(self, patience: float) -> Path | None:
        """End the save under way because the run breaks off; return the folder if rank 0 could still publish it.

        Each rank that breaks off calls it, in its own time. They tell each other by files what they have written: in a
        collective they might wait for one that is gone.

        Args:
            patience: seconds, for this rank's thread and for the files of others. A rank alone waits for its thread.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        until = time.monotonic() + patience
        try:
            done = pending.work.result(None if self._world.size == 1 else patience)
            if not pending.publishing and self._world.is_main:
                entries = done | self._entries_of_others(pending.staged, until)
                self._publish(pending, self._manifest(pending.step, entries))
            elif not pending.publishing:
                with whole_file(_told_in(pending.staged, self._world.rank), durable=False) as file:
                    file.write(json_bytes(done))
        except Exception:  # of any kind: why the run breaks off is what has to be told
            return None
        return pending.final if self._world.is_main else None

    def _entries_of_others(self, staged: Path, until: float) -> dict[str, Any]:
        """Return what the other ranks tell in files of what they have written. Raises TimeoutError: one doesn't."""
        paths = [_told_in(staged, rank) for rank in range(1, self._world.size)]
        while not all(path.exists() for path in paths):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(POLL_SECONDS)
        entries = {name: entry for path in paths for name, entry in json.loads(path.read_bytes()).items()}
        for path in paths:
            path.unlink()
        return entries

    def _advance(self, background: bool) -> Path | None:
        """Take a save from written to being published, or from being published to published. Waits for the thread."""
        pending = self._pending
        assert pending is not None
        parts = self._world.gather(_outcome(pending.work, self._world.rank))
        if problems := [problem for _, problem in parts if problem]:
            self._pending = None
            if self._world.is_main:
                shutil.rmtree(pending.staged, ignore_errors=True)
            raise _not_saved(pending.final, "; ".join(problems))
        if pending.publishing:
            self._pending = None
            if unremoved := parts[0][0]:
                raise Failure(f"{pending.final} is saved, but older checkpoints can't be removed: {unremoved}")
            return pending.final
        entries = {name: entry for part, _ in parts for name, entry in part.items()}
        manifest = self._manifest(pending.step, entries)
        pending.publishing = True
        pending.work = self._run(lambda: self._publish(pending, manifest), background and self._world.is_main)
        return None

    def _run(self, work: Callable[[], Any], background: bool) -> Future[Any]:
        if background:
            assert self._thread is not None
            return self._thread.submit(work)
        return done_into(Future(), work)

    def _publish(self, pending: _Pending, manifest: CheckpointManifest) -> str | None:
        """Let the checkpoint be seen, and old ones go; return why they can't."""
        if not self._world.is_main:
            return None
        publish_checkpoint(pending.staged, pending.final, manifest)
        try:
            remove_old(self._context.folder, self._rules, pending.final, self._in_use())
        except OSError as error:
            return str(error)
        return None

    def _part(self, state: TrainerState) -> Part:
        """Return what this rank will write: its pieces as they lie in the engine, everything else as bytes."""
        rank, ranks = self._world.rank, self._world.size
        files = {f"random-{rank:05d}.safetensors": safetensors.torch.save(random_state())}
        if self._world.is_main:
            files |= {TRAINER: json_bytes(asdict(state)), MODEL: json_bytes(self._context.model)}
            files |= {f"{TOKENIZER}/{name}": data for name, data in self._context.tokenizer.files().items()}
        pieces = list(state_of(self._engine, owned_pieces(self._engine)))
        return Part(f"state-{rank:05d}-of-{ranks:05d}.safetensors", pieces, files)

    def _manifest(self, step: int, files: dict[str, dict[str, Any]]) -> CheckpointManifest:
        return CheckpointManifest(
            format_version=FORMAT_VERSION,
            step=step,
            world_size=self._world.size,
            zero_stage=self._engine.stage,
            dataset_fingerprint=self._context.dataset_fingerprint,
            configuration_fingerprint=self._context.configuration_fingerprint,
            files=files,
        )

    def _stage(self, staged: Path, step: int, sizes: list[dict[str, int]]) -> str | None:
        """Make an empty folder for all ranks if the disk has room for what they will write; return what is wrong."""
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
            clear_debris(staged.parent)
            files = {name: size for part in sizes for name, size in part.items()}
            placeholders = {name: entry(size, "0" * 32) for name, size in files.items()}
            everything = [*files.values(), len(manifest_bytes(self._manifest(step, placeholders)))]
            if problem := lacking_room(staged.parent, everything):
                return problem
            fresh_folder(staged)
        except OSError as error:
            return f"rank 0: {error}"
        return None


def _told_in(staged: Path, rank: int) -> Path:
    return staged / f"part-{rank:05d}.json"


def _outcome(work: Future[Any], rank: int) -> tuple[Any, str | None]:
    try:
        return work.result(), None
    except OSError as error:
        return None, f"rank {rank}: {error}"
    except Exception as error:  # of any kind: the other ranks must hear of it, or they would wait for ever
        return None, f"rank {rank}: {type(error).__name__}: {error}"


def _not_saved(final: Path, problem: str) -> Failure:
    return Failure(f"checkpoint {final.name} could not be saved ({problem}); earlier checkpoints are untouched")
