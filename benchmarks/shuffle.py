"""`python -m benchmarks.shuffle TEXTS`: how random an order documents are delivered in, against a full shuffle.

TEXTS is a .jsonl or .jsonl.gz file. Its documents are numbered, prepared, and noted down in the order in which a run
first meets them; beside it the order of plain webdataset with a shuffle buffer over the same documents.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import webdataset

from benchmarks.preparation import documents_of
from data_pipeline.curriculum import plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.tokenization.tokenizer import load_tokenizer

LENGTH, BUFFER = 256, 1000


def shuffle_lines(texts: Path) -> Iterator[str]:
    """Yield a line per way of shuffling."""
    documents = [document.text for document in documents_of(texts)]
    with tempfile.TemporaryDirectory() as name:
        ours = _delivered(Path(name), documents)
    buffered = webdataset.shuffle(BUFFER)(iter(range(len(documents))))
    ways = {
        "a run over the dataset": ours,
        f"webdataset's buffer of {BUFFER:,}": np.fromiter(buffered, np.int64),
        "a full shuffle": np.random.default_rng(0).permutation(len(documents)),
    }
    for way, order in ways.items():
        yield (
            f"shuffle: {way:<28} rank correlation {_rank_correlation(order):+.3f} (chance ±{len(order) ** -0.5:.3f}), "
            f"neighbours {np.abs(np.diff(order)).mean() / len(order):.3f} of the corpus apart"
        )


def _rank_correlation(order: np.ndarray) -> float:
    """Spearman's ρ between the places of documents in the corpus and in the delivery."""
    return float(np.corrcoef(order.argsort().argsort(), np.arange(len(order)))[0, 1])


def _delivered(folder: Path, documents: list[str]) -> np.ndarray:
    """Return the numbers of the training split's documents in the order in which a run first meets their beginnings."""
    source, output = folder / "numbered.jsonl", folder / "dataset"
    with open(source, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": f"{number}\n{text}"}) + "\n" for number, text in enumerate(documents))
    command = [sys.executable, "-m", "data_pipeline.prepare", "corpus=files", f"corpus.paths=['{source}']"]
    # Small shards, so that there are more of them than are shuffled together, as in a large corpus.
    subprocess.run(
        [*command, f"output={output}", "shard_tokens=200000"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sequences = open_training(open_dataset(DataConfig(str(output), LENGTH)), 0, plan_segments(LENGTH, 8), 10)
    tokenizer = load_tokenizer(output / "tokenizer")
    met: dict[int, None] = {}
    for first in range(0, sequences.per_epoch, 8):
        numbers = np.arange(first, min(first + 8, sequences.per_epoch))
        rows = sequences.read(numbers, with_documents=True)
        assert rows.document_ends is not None
        for tokens, ends in zip(rows.tokens, rows.document_ends):
            for begin in ends[:-1]:
                number = tokenizer.decode(tokens[begin : begin + 12].tolist()).partition("\n")
                if number[0].isdigit() and number[1]:
                    met.setdefault(int(number[0]))
    return np.array(list(met))


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for line in shuffle_lines(Path(sys.argv[1])):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
