"""A second home of a run's checkpoints, elsewhere: what is whole there, sent there, kept there, fetched from there."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import (
    READ_BYTES,
    fresh_folder,
    hashed_file,
    publish_folder,
    sync_folder,
    whole_file,
)
from data_pipeline.foundation.places import Place
from train.checkpoint.folder import (
    MANIFEST,
    TRAINER,
    CheckpointManifest,
    checkpoint_name,
    clear_debris,
    lacking_room,
    parse_checkpoint_manifest,
    remove_checkpoint,
    step_of,
)
from train.checkpoint.retention import Retention, loss_in


@dataclass(frozen=True)
class Fetched:
    """The checkpoint that was fetched, if any, and the newer ones there that aren't whole, with what is wrong."""

    checkpoint: Path | None
    rejected: list[tuple[Path, list[str]]]


class RemoteCheckpoints:
    """The checkpoints of a run in an object store or on another file system.

    A checkpoint is there when its manifest is, which is sent last and removed first, and all of its files have the
    manifest's sizes.

    Args:
        location: that several runs may share.
        run: name of this one's folder in it.

    Raises:
        UserError: of every method: the place is forbidden, or there is none.
        Failure: of every method: it can't be reached, after a bounded number of attempts.
    """

    def __init__(self, location: str, run: str):
        self._place = Place(location) / run
        self._manifests: dict[int, bytes] = {}
        self._losses: dict[int, float | None] = {}
        self._damaged: set[int] = set()

    @property
    def name(self) -> str:
        return self._place.name

    def steps(self) -> dict[int, dict[str, int]]:
        """Return, by step in ascending order, the files of all checkpoints there, whole or not, with their bytes."""
        found: dict[int, dict[str, int]] = {}
        for path, size in self._place.files().items():
            folder, _, name = path.partition("/")
            if name and re.fullmatch(r"step-\d{8,}", folder):
                found.setdefault(step_of(Path(folder)), {})[name] = size
        return dict(sorted(found.items()))

    def problems(self, step: int, files: dict[str, int]) -> list[str]:
        """Return why a checkpoint there isn't whole, as far as names and sizes tell."""
        at = f"{self.name}/{checkpoint_name(step)}"
        if MANIFEST not in files:
            return [f"{at} is not a whole checkpoint: it has no {MANIFEST}"]
        if step in self._damaged:
            return [f"{at} was found damaged when it was fetched"]
        try:
            manifest = self._manifest(step)
        except Failure as error:
            return [str(error)]
        return [
            f"{at}/{name} is missing" if name not in files else f"{at}/{name} has {files[name]} bytes instead of {size}"
            for name, size in ((name, entry["bytes"]) for name, entry in sorted(manifest.files.items()))
            if files.get(name) != size
        ]

    def has(self, checkpoint: Path) -> bool:
        """Return whether this very checkpoint, byte for byte as far as its manifest tells, is there."""
        step = step_of(checkpoint)
        files = self.steps().get(step, {})
        return not self.problems(step, files) and self._manifest_bytes(step) == (checkpoint / MANIFEST).read_bytes()

    def send(self, checkpoint: Path) -> None:
        """Copy a checkpoint there, its manifest last.

        Raises:
            FileNotFoundError: it has been removed here in the meantime.
        """
        step, name = step_of(checkpoint), checkpoint.name
        manifest = parse_checkpoint_manifest((checkpoint / MANIFEST).read_bytes(), str(checkpoint))
        self._forget(step)
        self._place.remove(f"{name}/{MANIFEST}")
        for file in (*manifest.files, MANIFEST):
            self._place.put(checkpoint / file, f"{name}/{file}")
        if problems := self.problems(step, self.steps().get(step, {})):
            raise Failure("; ".join(problems))

    def remove_old(self, rules: Retention, until: int) -> list[int]:
        """Remove the checkpoints up to a step that no rule keeps, and what broken sendings left; return the removed.

        Only whole ones count; so the newest of them stays.
        """
        steps = {step: files for step, files in self.steps().items() if step <= until}
        whole = [step for step, files in steps.items() if not self.problems(step, files)]
        if not whole:
            return []
        losses = {step: self._loss(step) for step in whole} if rules.best else {}
        stay = rules.kept(whole, losses)
        doomed = [step for step in steps if step not in stay and step < whole[-1]]
        for step in doomed:
            self._forget(step)
            for name in sorted(steps[step], key=lambda name: name != MANIFEST):
                self._place.remove(f"{checkpoint_name(step)}/{name}")
        return doomed

    def fetch_newest(self, folder: Path, configuration_fingerprint: str) -> Fetched:
        """Copy the newest whole checkpoint into a run's folder of checkpoints; every byte is checked on the way.

        Raises:
            UserError: it is of a run with other settings.
            Failure: this machine's disk has no room for it.
        """
        rejected: list[tuple[Path, list[str]]] = []
        for step, files in reversed(self.steps().items()):
            problems = self.problems(step, files)
            if not problems:
                manifest = self._manifest(step)
                if manifest.configuration_fingerprint != configuration_fingerprint:
                    raise UserError(
                        f"{self.name}/{checkpoint_name(step)} is of a run with other settings or data: "
                        "choose another checkpoint.upload or run.name"
                    )
                final = folder / checkpoint_name(step)
                problems = self._fetch(step, manifest, final)
                if not problems:
                    return Fetched(final, rejected)
            rejected.append((Path(checkpoint_name(step)), problems))
            self._damaged.add(step)
        return Fetched(None, rejected)

    def _fetch(self, step: int, manifest: CheckpointManifest, final: Path) -> list[str]:
        """Copy a checkpoint to its place, or return which of its files are damaged."""
        problems = []
        staged = final.with_name(final.name + ".tmp")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            clear_debris(final.parent)
            if problem := lacking_room(final.parent, [entry["bytes"] for entry in manifest.files.values()]):
                raise Failure(f"{self.name}/{final.name} can't be fetched: {problem}")
            fresh_folder(staged)
            for name, entry in manifest.files.items():
                (staged / name).parent.mkdir(exist_ok=True)
                with self._place.open(f"{final.name}/{name}") as source, hashed_file(staged / name) as file:
                    shutil.copyfileobj(source, file, READ_BYTES)
                if file.hexdigest != entry["xxh3_128"]:
                    problems.append(f"{self.name}/{final.name}/{name} is damaged: its checksum is not the manifest's")
            if problems:
                return problems
            for path in {(staged / name).parent for name in manifest.files}:
                sync_folder(path)
            with whole_file(staged / MANIFEST) as last:
                last.write(self._manifest_bytes(step))
            if final.exists():
                remove_checkpoint(final)
            publish_folder(staged, final)
        except OSError as error:
            raise Failure(f"{self.name}/{final.name} can't be fetched into {final.parent}: {error}") from None
        return []

    def _manifest(self, step: int) -> CheckpointManifest:
        return parse_checkpoint_manifest(self._manifest_bytes(step), f"{self.name}/{checkpoint_name(step)}")

    def _manifest_bytes(self, step: int) -> bytes:
        if step not in self._manifests:
            self._manifests[step] = self._read(step, MANIFEST)
        return self._manifests[step]

    def _loss(self, step: int) -> float | None:
        if step not in self._losses:
            self._losses[step] = loss_in(self._read(step, TRAINER))
        return self._losses[step]

    def _read(self, step: int, name: str) -> bytes:
        with self._place.open(f"{checkpoint_name(step)}/{name}") as file:
            return file.read()

    def _forget(self, step: int) -> None:
        self._manifests.pop(step, None)
        self._losses.pop(step, None)
        self._damaged.discard(step)
