"""Exports a checkpoint and prints, in bytes, the most memory of its own that this process held beyond its start.

Usage: python export_memory.py CHECKPOINT OUTPUT
"""

from __future__ import annotations

import sys
import threading
import time

import torch  # imported beforehand, so that what it takes isn't counted

from train.exchange import checkpoint_source, hugging_face, transformers_side  # noqa: F401
from train.exchange.export import ExportConfig, export


def own_memory() -> int:
    """Return the bytes that belong to no file: pages of mapped files are the system's to take back."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def main() -> None:
    checkpoint, output = sys.argv[1:]
    torch.set_num_threads(1)
    start = peak = own_memory()
    finished = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.is_set():
            peak = max(peak, own_memory())
            time.sleep(0.002)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    export(ExportConfig(checkpoint, output, proof="own"))
    finished.set()
    watching.join()
    print(peak - start)


if __name__ == "__main__":
    main()
