"""What is to run, whatever starts it: a module of ours with settings, and the folder that it is recorded in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.foundation.errors import UserError
from train.run_files import LAUNCH
from train.telemetry.withheld import override_without_secrets

if TYPE_CHECKING:
    from data_pipeline.foundation.configuration import Composed
    from train.settings import TrainConfig


@dataclass(frozen=True)
class Job:
    """One run, or one command, to be started somewhere.

    Args:
        name: for people and schedulers.
        folder: of the run; what launches it is kept in its `launch/`.
        module: that every process runs.
        settings: of the processes, KEY=VALUE each.
        configuration_folders: of the user's own.
        configuration: resolved, as YAML, for people.
        lines: what preflight has to say.
    """

    name: str
    folder: Path
    module: str
    settings: Sequence[str]
    configuration_folders: Sequence[Path] = ()
    configuration: str = ""
    lines: Sequence[str] = field(default_factory=list)

    @property
    def launch_folder(self) -> Path:
        return self.folder / LAUNCH

    def arguments(self) -> list[str]:
        """Return what follows `python -m MODULE`."""
        folders = [word for folder in self.configuration_folders for word in ("--config-dir", str(folder))]
        return [*folders, *self.settings]

    def make_launch_folder(self) -> Path:
        """Make the launch folder, for this user alone, and return it.

        Raises:
            UserError: a setting holds a secret, which would stand in a file there.
        """
        for setting in self.settings:
            if (shown := override_without_secrets(setting)) != setting:
                raise UserError(
                    f"`{shown}` holds a secret, or may, and settings are written into {self.launch_folder}: "
                    "give it by the environment or by a file of credentials"
                )
        self.launch_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.launch_folder


def process_settings(composed: Composed[TrainConfig]) -> list[str]:
    """Return the overrides by which the processes of a launched run compose the same configuration, with themselves in
    the place of a launcher: with all settings of `cluster` that don't concern what starts them."""
    from train.distributed import ClusterConfig

    kept = [text for text in composed.overrides if not text.lstrip("+").startswith(("cluster=", "cluster."))]
    cluster = composed.data["cluster"]
    keys = [each.name for each in fields(ClusterConfig) if each.name != "kind"]
    values = [f"cluster.{key}={'null' if cluster[key] is None else cluster[key]}" for key in keys]
    return [*kept, "cluster=local", *(value.replace("=True", "=true").replace("=False", "=false") for value in values)]
