"""The names of a configuration group's options, read from the folder alone: help must not wait for Hydra."""

from pathlib import Path


def option_names(group: str) -> list[str]:
    """Return the options of a group, sorted."""
    import conf

    folder = Path(next(iter(conf.__path__))) / group
    return sorted(file.stem for file in folder.glob("*.yaml"))
