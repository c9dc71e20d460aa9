"""How thorough the tests are: `make soak` multiplies the cases that are drawn at random, and shows what they found."""

from __future__ import annotations

import os

import pytest

_tables: dict[str, list[tuple[str, ...]]] = {}


def examples(count: int) -> int:
    """Return how many random cases to draw where the ordinary tests draw `count`."""
    return count * int(os.environ.get("HEADRACE_SOAK", "1"))


def soaking() -> bool:
    """Tell whether tests that take minutes are wanted."""
    return examples(1) > 1


def note(title: str, **row: object) -> None:
    """Add a row to a table of what the tests have found; the tables are printed at the end, in a soak."""
    rows = _tables.setdefault(title, [tuple(name.replace("_", " ") for name in row)])
    rows.append(tuple(str(value).replace("|", "\\|") for value in row.values()))


def tables() -> str:
    """Return all tables in Markdown."""
    lines = []
    for title, (names, *rows) in _tables.items():
        lines += ["", f"## {title}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


long = pytest.mark.skipif(not soaking(), reason="takes long; `make soak` runs it")
