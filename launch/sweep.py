"""`--multirun`: a run for each combination of the values that keys are given, in Hydra's notation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import hydra.errors
from hydra.core.override_parser.overrides_parser import OverridesParser

from data_pipeline.foundation.errors import UserError

MOST_RUNS = 1000


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each run of a sweep: the product of all keys' values, the last key's changing first.

    A given `run.name` becomes `NAME-0`, `NAME-1`, …

    Raises:
        UserError: an override can't be read, no key has several values, or the runs are too many.
    """
    choices: list[list[str]] = []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
            swept = override.is_sweep_override()
            values = list(override.sweep_string_iterator()) if swept else []
        except (hydra.errors.HydraException, ValueError) as error:
            raise UserError(f"can't read `{text}`: {' '.join(str(error).split())}") from None
        choices.append([f"{override.get_key_element()}={value}" for value in values] if swept else [text])
    count = 1
    for choice in choices:
        count *= len(choice)
    if count == 1 and all(len(choice) == 1 for choice in choices):
        raise UserError("--multirun: no key has several values; write KEY=A,B,C")
    if count > MOST_RUNS:
        raise UserError(f"--multirun: {count:,} runs are more than {MOST_RUNS:,}")
    return [_numbered(list(chosen), number) for number, chosen in enumerate(itertools.product(*choices))]


def _numbered(overrides: list[str], number: int) -> list[str]:
    return [f"{text}-{number}" if text.startswith("run.name=") else text for text in overrides]
