"""The folder of a run: made once, recognised when the same run is started again, refused to any other."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from data_pipeline.foundation.configuration import Composed
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import json_hash, write_json, write_text
from data_pipeline.foundation.locations import require_local
from train.run_files import CHECKPOINTS, CONFIG, ENVIRONMENT, LAUNCH, OVERRIDES
from train.run_lock import LOCK
from train.settings import TrainConfig, deciding
from train.telemetry.environment import describe_environment
from train.telemetry.withheld import override_without_secrets, without_secrets

FORBIDDEN_IN_NAMES = set("/\\\0\n\r\t\"'`$;&|<>*?!")


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives, and what decides its result.

    Args:
        path: of the folder.
        name: of the run.
        fingerprint: of the settings that decide what is learnt, the dataset's content among them.
        dataset_fingerprint: of the dataset.
    """

    path: Path
    name: str
    fingerprint: str
    dataset_fingerprint: str

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS


def locate_run(composed: Composed[TrainConfig], dataset_fingerprint: str) -> RunFolder:
    """Name the run without touching the disk; the same settings and data give the same name on every rank.

    Raises:
        UserError: a name that isn't one folder's.
    """
    config = composed.value
    fingerprint = json_hash({"settings": deciding(composed.data), "dataset": dataset_fingerprint})
    name = config.run.name or f"{config.model.name}-{fingerprint[:8]}"
    if name in (".", "..") or name.startswith("-") or FORBIDDEN_IN_NAMES & set(name) or len(name.encode()) > 200:
        raise UserError(f"run.name={name!r} can't be a folder's name: use letters, digits, `-`, `_` and `.`")
    return RunFolder(Path(require_local("run.root", config.run.root)) / name, name, fingerprint, dataset_fingerprint)


def check_run(run: RunFolder, composed: Composed[TrainConfig]) -> None:
    """Refuse to go on in a folder that belongs to a run of other settings or data. Changes nothing.

    Raises:
        UserError: names the settings that differ.
    """
    path = run.path / CONFIG
    if not path.exists():
        if run.path.exists() and not all(_is_of_a_beginning(entry.name) for entry in run.path.iterdir()):
            raise UserError(f"{run.path} exists and is not a run's folder: choose another run.name")
        return
    try:
        earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
        before_data = earlier.pop("dataset_fingerprint", None)
        before, now = deciding(without_secrets(earlier)), deciding(without_secrets(composed.data))
    except (OSError, yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        raise Failure(
            f"{path} can't be read ({' '.join(str(error).split())}): restore it, or move {run.path} away"
        ) from None
    # A setting that there wasn't yet when the run began was what it now is by default.
    before = {key: value for key, value in deciding(asdict(TrainConfig())).items() if key in now} | before
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    changes = [f"{key} was {before.get(key)} and is {now.get(key)}" for key in differing]
    if before_data != run.dataset_fingerprint:
        changes.append(f"the dataset at data.path has other content ({before_data} before)")
    if changes:
        raise UserError(
            f"{run.path} belongs to another run: {'; '.join(changes)}. "
            "Give this one another run.name, or the earlier settings to go on"
        )


def _is_of_a_beginning(name: str) -> bool:
    """Tell whether a file can be left by a run that hasn't begun, or was killed before its settings stood."""
    return name in (LAUNCH, LOCK, OVERRIDES, ENVIRONMENT) or re.fullmatch(r"\..+\.tmp", name) is not None


def open_run(run: RunFolder, composed: Composed[TrainConfig]) -> None:
    """Make the folder if need be and write down what runs in it now: settings, overrides, environment.

    The settings come last: with them the folder is a run's.

    Raises:
        Failure: it can't be written.
    """
    described = {**without_secrets(composed.data), "dataset_fingerprint": run.dataset_fingerprint}
    overrides = [override_without_secrets(override) for override in composed.overrides]
    environment = describe_environment() | {"dataset_fingerprint": run.dataset_fingerprint}
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_text(run.path / OVERRIDES, yaml.safe_dump(overrides, allow_unicode=True))
        write_json(run.path / ENVIRONMENT, environment)
        write_text(run.path / CONFIG, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise Failure(f"{run.path} can't be written ({error.strerror}): choose another run.root or mend it") from None
