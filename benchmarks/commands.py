"""What several benchmarks start: the command as a user types it."""

from __future__ import annotations

import subprocess
import sys


def headrace(*arguments: str) -> None:
    """Run `headrace` to its end without its progress. Raises CalledProcessError: it failed."""
    subprocess.run([sys.executable, "-m", "launch.command", *arguments], check=True, stderr=subprocess.DEVNULL)
