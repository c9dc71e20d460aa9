"""`python -m benchmarks.memory TEXTS [MEGABYTES …]`: memory that preparation takes, at several sizes of the corpus.

TEXTS is a .jsonl or .jsonl.gz file, repeated to so many megabytes (100 and 1000 if left out), each copy with numbers of
its own in it, so that the copies are no duplicates. What is measured is the largest sum, over all processes of the
command at a moment, of the memory that is theirs alone; pages of mapped files, which can be dropped at any time, aside.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.preparation import documents_of
from data_pipeline.readers.document import utf8_length

INTERVAL_SECONDS = 0.1


def memory_lines(texts: Path, sizes: list[int]) -> Iterator[str]:
    documents = [document.text for document in documents_of(texts)]
    peaks = []
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as name:
            corpus = Path(name, "texts.jsonl.gz")
            size = _write(corpus, documents, megabytes * 1_000_000)
            command = [
                *(sys.executable, "-m", "data_pipeline.prepare", "corpus=files", f"corpus.paths=['{corpus}']"),
                *("cleaning=standard", "tokenizer.vocabulary_size=32768", f"output={name}/dataset"),
            ]
            started = time.perf_counter()
            peaks.append(_peak(command))
            seconds = time.perf_counter() - started
        yield f"{size / 1e6:,.0f} MB of text: {peaks[-1] / 1e6:,.0f} MB of memory in all processes, {seconds:,.0f} s"
    if len(peaks) > 1:
        yield f"the largest corpus takes {peaks[-1] / peaks[0]:.2f} times the memory of the smallest"


def _write(path: Path, documents: list[str], least: int) -> int:
    size = copy = 0
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        while size < least:
            for text in documents:
                words = text.split(" ")
                # A number every few words leaves no five words in a row that another copy has.
                changed = " ".join(f"{word} {copy}" if at % 4 == 3 else word for at, word in enumerate(words))
                file.write(json.dumps({"text": changed}) + "\n")
                size += utf8_length(changed)
                if size >= least:
                    break
            copy += 1
    return size


def _peak(command: list[str]) -> int:
    process = psutil.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        used = 0
        for each in [process, *_children(process)]:
            with contextlib.suppress(psutil.Error):
                used += each.memory_full_info().uss
        peak = max(peak, used)
        time.sleep(INTERVAL_SECONDS)
    if process.returncode:
        raise SystemExit(f"preparation ended with {process.returncode}")
    return peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for line in memory_lines(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]] or [100, 1000]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
