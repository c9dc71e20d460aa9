"""The text of a batch script. Whatever is put into it stays a value, to sbatch and to the shell."""

from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import data_pipeline

ONE_THREAD = ("OMP_NUM_THREADS=1", "RAYON_NUM_THREADS=1", "TOKENIZERS_PARALLELISM=false", "PYTHONUNBUFFERED=1")
"""A task's processes are its threads; and what they print is wanted also when they are killed."""


def batch_script(options: Mapping[str, str | None], modules: Sequence[str], command: Sequence[str]) -> str:
    """Return a script that loads modules and becomes a command.

    Args:
        options: of sbatch; None for one without a value.
    """
    loading = [f"module load {shlex.quote(module)} || exit" for module in modules]
    lines = [
        # `module` is a function that only a login shell is sure to have
        "#!/bin/bash -l" if modules else "#!/bin/bash",
        *(f"#SBATCH --{name}" + ("" if value is None else f"={quoted(value)}") for name, value in options.items()),
        *loading,
        f"export {' '.join(ONE_THREAD)}",
        *_same_package(),
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """Return a value as it has to stand in an #SBATCH line, where a backslash always makes the next character plain."""
    assert value.isprintable(), value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def log_pattern(folder: Path) -> str:
    """Return the name of an array's log files for `--output`, in which a percent sign begins a placeholder."""
    return str(folder).replace("%", "%%") + "/%A_%a.log"


def _same_package() -> list[str]:
    """Return the line by which tasks import this very package where it isn't among the installed ones."""
    root = Path(data_pipeline.__file__).parents[1]
    if root == Path(sysconfig.get_path("purelib")):
        return []
    return [f'export PYTHONPATH={shlex.quote(str(root))}"${{PYTHONPATH:+:$PYTHONPATH}}"']
