"""How thorough the tests are: `make soak` multiplies the cases that are drawn at random."""

from __future__ import annotations

import os

import pytest


def examples(count: int) -> int:
    """Return how many random cases to draw where the ordinary tests draw `count`."""
    return count * int(os.environ.get("HEADRACE_SOAK", "1"))


long = pytest.mark.skipif("HEADRACE_SOAK" not in os.environ, reason="takes long; `make soak` runs it")
