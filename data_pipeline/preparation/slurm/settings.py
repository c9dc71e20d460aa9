"""The settings of `engine=slurm`. They reach a batch script, so each is checked: none can become code there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError, printable

OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.+))?")
MODULE = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")


@dataclass(frozen=True)
class SbatchNames:
    """Names of sbatch's options that aren't the user's to choose.

    Args:
        group: of configuration.
        keys: options for which there is a key in it.
        reserved: those that would take from us what we rely on, or bring code or an environment of their own.
    """

    group: str
    keys: Mapping[str, str]
    reserved: Sequence[str]


OWN_KEYS = {
    **{"partition": "partition", "account": "account", "qos": "qos", "time": "time", "mem": "memory"},
    **{"cpus-per-task": "cpus_per_task", "array": "tasks"},
}
"""Options of sbatch for which there is a key."""
RESERVED = (
    *("job-name", "output", "error", "input", "open-mode", "requeue", "no-requeue", "ntasks", "nodes"),
    *("chdir", "container", "dependency", "export", "export-file", "get-user-env", "uid", "gid", "hold", "kill-on"),
    *("parsable", "quiet", "test-only", "wait", "wrap"),
)
NAMES = SbatchNames("engine", OWN_KEYS, RESERVED)


def check_words(group: str, settings: object, keys: Sequence[str]) -> None:
    """Refuse words that can't be put into a batch script, of some settings of a group. Raises UserError."""
    for key in keys:
        if (text := getattr(settings, key)) is not None and not (text and text.isprintable()):
            raise UserError(f"{group}.{key}={printable(text)!r}: a word of printable characters is needed")


def check_modules(group: str, modules: Sequence[str], example: str) -> None:
    """Refuse what can't be the name of an environment module. Raises UserError, with an example."""
    for module in modules:
        if not MODULE.fullmatch(module):
            raise UserError(f"{group}.modules: {printable(module)!r} isn't the name of a module, such as {example}")


def chosen_options(texts: Sequence[str], names: SbatchNames) -> dict[str, str | None]:
    """Return more options of sbatch, as the user writes them; None where one takes no value.

    Raises:
        UserError: one isn't an option, or not the user's to choose.
    """
    options: dict[str, str | None] = {}
    for text in texts:
        match = OPTION.fullmatch(text)
        if match is None or not text.isprintable():
            raise UserError(f"{names.group}.sbatch: {printable(text)!r} isn't an option such as --constraint=avx2")
        name, value = match.groups()
        for ours in (*names.keys, *names.reserved):
            if ours.startswith(name):  # sbatch takes an option's first letters for it
                key = f", by {names.group}.{names.keys[ours]}" if ours in names.keys else ""
                raise UserError(f"{names.group}.sbatch: --{ours} is ours to set{key}")
        options[name] = value
    return options


@dataclass
class SlurmConfig:
    """Settings of `engine=slurm`; None leaves a choice to the cluster.

    Args:
        tasks: of a job array, at most; each takes its share of a phase's items.
        at_once: of them that may run at the same time; all of them if None.
        cpus_per_task: processes of a task.
        memory: of a task, as sbatch takes it: 4G.
        time: limit of a task, as sbatch takes it: 04:00:00. A task that reaches it goes on in the next array.
        partition, account, qos: where and for whom the tasks run.
        sbatch: more options, as sbatch takes them: --constraint=avx2.
        modules: environment modules that the tasks load. All else of the environment is that of the command.
        retries: arrays in a row that get no further, after which a phase is given up; with 0 the first trouble ends it.
    """

    tasks: int = 16
    at_once: int | None = None
    cpus_per_task: int = 1
    memory: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    retries: int = 2

    def check(self) -> None:
        """Refuse what can't be put into a batch script. Raises UserError."""
        for key, least in (("tasks", 1), ("at_once", 1), ("cpus_per_task", 1), ("retries", 0)):
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"engine.{key}={value} must be at least {least}")
        check_words("engine", self, ("memory", "time", "partition", "account", "qos"))
        check_modules("engine", self.modules, "gcc/13.2")
        self.options()

    def options(self) -> dict[str, str | None]:
        """Return the options of sbatch that the user has chosen; None where one takes no value.

        Raises:
            UserError: one isn't an option, or not the user's to choose.
        """
        words = {name: getattr(self, key) for name, key in OWN_KEYS.items() if name != "array"}
        options: dict[str, str | None] = {name: str(value) for name, value in words.items() if value is not None}
        return options | chosen_options(self.sbatch, NAMES)
