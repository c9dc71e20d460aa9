"""A verb of the command line: its flags, its help, and how its end becomes an exit code.

Every verb is a module with a `VERB` and can run alone (`python -m train …`), where a launcher needs a module.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_pipeline.foundation.errors import Failure, ToldElsewhere, UserError

if TYPE_CHECKING:
    from data_pipeline.foundation.configuration import Composed

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Request:
    """What the user typed after the verb."""

    overrides: list[str]
    json: bool = False
    dry_run: bool = False
    multirun: bool = False
    follow: bool = False
    apply: bool = False
    print_configuration: bool = False
    folders: list[Path] = field(default_factory=list)

    def compose(self, root: str, schema: type[Schema]) -> Composed[Schema] | None:
        """Return the configuration that was asked for, or None where it was only to be printed, which then is done.

        Args:
            root: name of its file in `conf/`; what its groups choose from must be registered.
            schema: of the root.

        Raises:
            UserError: see `compose_configuration`.
        """
        from data_pipeline.foundation.configuration import compose_configuration, register

        register(f"{root}_schema", schema)
        composed = compose_configuration(root, self.overrides, schema, self.folders)
        if self.print_configuration:
            print(composed.yaml(), end="")
            return None
        return composed


@dataclass(frozen=True)
class Verb:
    """One command.

    Args:
        name: as typed after `headrace`.
        summary: what it does, in one line.
        run: does it; returns the exit code. Imports what is slow only when called.
        groups: configuration groups that it takes, for the help.
        keys: the settings most often given, with a word each, for the help.
        examples: three command lines.
        flags: which of `OPTIONAL_FLAGS` it takes.
        positional: the setting that a word without `=` is for.
    """

    name: str
    summary: str
    run: Callable[[Request], int]
    groups: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    examples: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    positional: str | None = None

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the verb with command-line arguments; report errors as a person wants to read them.

        Returns:
            the exit code: 0 done, 1 a failure, 2 the user's mistake, 75 stopped early with a good checkpoint.
        """
        try:
            arguments = list(sys.argv[1:] if arguments is None else arguments)
            if any(argument in ("-h", "--help") for argument in arguments):
                print(self.help())
                return 0
            return self.run(self._request(arguments))
        except UserError as error:
            # Every process of a run sees the same mistake; one of them says it.
            if os.environ.get("RANK", "0") == "0":
                print(f"headrace {self.name}: {error}", file=sys.stderr)
            return error.exit_code
        except Failure as error:
            print(f"headrace {self.name}: {error}", file=sys.stderr)
            return error.exit_code
        except ToldElsewhere as error:
            return error.exit_code
        except KeyboardInterrupt:
            print(f"headrace {self.name}: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of our output has gone (`| head`); nothing is left to say, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception:
            traceback.print_exc()
            print(f"headrace {self.name}: this is a fault of ours, please report it with these lines", file=sys.stderr)
            return 1

    def help(self) -> str:
        from data_pipeline.foundation.options import option_names

        lines = [f"headrace {self.name}: {self.summary}", "", f"usage: headrace {self.name} [KEY=VALUE …] [flags]"]
        if self.keys:
            lines += ["", "settings:"] + [f"  {key:<24} {meaning}" for key, meaning in self.keys]
        if self.groups:
            lines += ["", "groups, each with its options:"]
            lines += [f"  {group + '=':<24} {' | '.join(option_names(group))}" for group in self.groups]
        lines += ["", "flags:"] + [f"  {flag:<24} {meaning}" for flag, meaning in FLAGS.items() if self._takes(flag)]
        lines += ["", "examples:"] + [f"  {example}" for example in self.examples]
        return "\n".join(lines)

    def _takes(self, flag: str) -> bool:
        return flag not in OPTIONAL_FLAGS or flag in self.flags

    def _request(self, arguments: list[str]) -> Request:
        json = dry_run = multirun = follow = apply = print_configuration = False
        folders: list[Path] = []
        overrides: list[str] = []
        rest = iter(arguments)
        for argument in rest:
            if argument == "--json" and self._takes("--json"):
                json = True
            elif argument == "--dry-run" and self._takes("--dry-run"):
                dry_run = True
            elif argument in ("--multirun", "-m") and self._takes("--multirun"):
                multirun = True
            elif argument == "--follow" and self._takes("--follow"):
                follow = True
            elif argument == "--apply" and self._takes("--apply"):
                apply = True
            elif argument == "--cfg":
                if next(rest, None) != "job":
                    raise UserError("`--cfg` takes one word: --cfg job prints the configuration and does nothing else")
                print_configuration = True
            elif argument == "--config-dir":
                folder = next(rest, None)
                if folder is None:
                    raise UserError("`--config-dir` takes a folder with groups and options of your own")
                folders.append(Path(folder))
            elif argument == "--settings":
                overrides += _settings(next(rest, None))
            elif argument.startswith("-"):
                known = ", ".join(flag.split()[0] for flag in FLAGS if self._takes(flag))
                raise UserError(f"unknown flag `{argument}`; flags: {known}. Settings are written KEY=VALUE")
            elif self.positional and "=" not in argument:
                overrides.append(f"{self.positional}='{argument}'")
            else:
                overrides.append(argument)
        return Request(overrides, json, dry_run, multirun, follow, apply, print_configuration, folders)


def _settings(file: str | None) -> list[str]:
    """Return the settings in a file. Raises UserError."""
    import yaml

    try:
        settings = yaml.safe_load(Path(file or "").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"`--settings {file}` can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(settings, list) or not all(isinstance(text, str) for text in settings):
        raise UserError(f"`--settings {file}` takes a YAML list, with KEY=VALUE in each of its lines")
    return settings


FLAGS = {
    "--dry-run": "do everything up to the first step, then stop",
    "--multirun": "a run for each combination of KEY=A,B,C",
    "--follow": "go on until the end",
    "--json": "print results as JSON",
    "--apply": "write what is recommended as settings for `train`",
    "--cfg job": "print the resolved configuration, do nothing",
    "--config-dir DIR": "look here too for groups and options",
    "--settings FILE": "settings from a file too: a YAML list of KEY=VALUE",
    "--help": "this page",
}
OPTIONAL_FLAGS = ("--json", "--dry-run", "--multirun", "--follow", "--apply")
