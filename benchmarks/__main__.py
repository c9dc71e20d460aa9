"""`python -m benchmarks [DATASET]`: every benchmark in one run, on a dataset folder (default: the demo's)."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.loader import loader_lines
from benchmarks.trainer import trainer_lines


def main() -> int:
    dataset = Path(sys.argv[1] if len(sys.argv) > 1 else "datasets/python_docs")
    if not dataset.is_dir():
        print(f"{dataset}: no dataset there; make one with `headrace prepare output={dataset}`", file=sys.stderr)
        return 2
    for lines in (loader_lines, trainer_lines):
        for line in lines(dataset):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
