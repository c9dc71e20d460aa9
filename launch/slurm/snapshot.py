"""A copy of the code and of the user's options beside a run that waits: later edits don't change it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.foundation.files import fresh_folder

PACKAGES = ("conf", "data_pipeline", "train", "launch")


def copy_code(folder: Path) -> None:
    """Copy our packages into a folder, which is emptied first. Raises OSError."""
    root = Path(__file__).parents[2]
    fresh_folder(folder)
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def copy_options(folders: Sequence[Path], target: Path) -> list[Path]:
    """Copy the user's folders of options, as they were checked; return where they are now. Raises OSError."""
    copies = []
    for number, folder in enumerate(folders):
        copy = fresh_folder(target / str(number))
        for file in sorted(folder.rglob("*.yaml")):
            (copy / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / file.relative_to(folder))
        copies.append(copy)
    return copies
