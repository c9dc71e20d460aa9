"""One line of the doctor's."""

from __future__ import annotations

from dataclasses import dataclass

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what was found.

    Args:
        level: green, all is well; yellow, something is slow or can't be used; red, runs will fail.
        subject: in a word or two.
        text: what was found.
        mend: what to do; nothing where all is well.
    """

    level: str
    subject: str
    text: str
    mend: str = ""
