"""Engines by name. A configuration chooses one from this list, and from nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.parallel import Workers
from data_pipeline.preparation.engine import Engine, LocalEngine
from data_pipeline.preparation.slurm.engine import SlurmEngine, check_slurm
from data_pipeline.preparation.slurm.settings import SlurmConfig
from data_pipeline.preparation.workplace import Workplace


@dataclass
class LocalConfig:
    """`engine=local` has no settings of its own: `workers` says how many processes."""


ENGINES: dict[str, type] = {"local": LocalConfig, "slurm": SlurmConfig}


def check_engine(config: Any) -> None:
    """Refuse settings that no phase could be done with, before anything is.

    Raises:
        UserError: an unusable setting, or an engine that isn't here.
        Failure: a scheduler can't be reached.
    """
    match config:
        case None | LocalConfig():
            pass
        case SlurmConfig():
            check_slurm(config)
        case _:
            raise UserError(
                "an option of your own for `engine` has to begin with one of ours, to say what its keys mean: "
                f"`defaults: [slurm, _self_]`; there are {', '.join(ENGINES)}"
            )


def open_engine(config: Any, place: Workplace, workers: Workers) -> Engine:
    """Return the engine of a configuration that has been checked; processes on this machine if None."""
    if isinstance(config, SlurmConfig):
        return SlurmEngine(config, place.root / "slurm", str(place.root.parent))
    return LocalEngine(workers)
