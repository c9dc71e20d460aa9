"""`python -m benchmarks [DATASET] [TEXTS]`: every benchmark in one run.

DATASET is a dataset folder (default: the demo's), for the trainer, its checkpoints and the stream; what `plan` predicts
is held against what is measured here, and what others have published. TEXTS is a .jsonl or
.jsonl.gz file of tens of megabytes or more, for preparation, its memory, the duplicates it finds and the order it
shuffles into.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.duplicates import duplicates_lines
from benchmarks.loader import loader_lines
from benchmarks.long_context import long_context_lines
from benchmarks.memory import memory_lines
from benchmarks.memory_plan import memory_plan_lines
from benchmarks.preparation import preparation_lines
from benchmarks.published import published_lines
from benchmarks.resume import resume_lines
from benchmarks.saving import saving_lines
from benchmarks.shuffle import shuffle_lines
from benchmarks.training import training_lines


def main() -> int:
    dataset = Path(sys.argv[1] if len(sys.argv) > 1 else "datasets/python_docs")
    if not dataset.is_dir():
        print(f"{dataset}: no dataset there; make one with `headrace prepare output={dataset}`", file=sys.stderr)
        return 2
    parts: list[Callable[[], Iterator[str]]] = [
        lambda: loader_lines(dataset),
        resume_lines,
        lambda: saving_lines(dataset),
        lambda: training_lines(dataset),
        memory_plan_lines,
        long_context_lines,
        published_lines,
    ]
    if len(sys.argv) > 2:
        texts = Path(sys.argv[2])
        parts += [
            lambda: shuffle_lines(texts),
            lambda: duplicates_lines(texts, [200_000, 2_000_000]),
            lambda: preparation_lines(texts, 500),
            lambda: memory_lines(texts, [100, 1000]),
        ]
    for lines in parts:
        for line in lines():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
