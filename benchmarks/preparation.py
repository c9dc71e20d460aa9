"""`python -m benchmarks.preparation TEXTS [MEGABYTES]`: preparation against what others do with the same text.

TEXTS is a .jsonl or .jsonl.gz file, repeated to so many megabytes (500 if left out), in eight files. Ours is the whole
command, from the files to the published dataset; the others encode with the same tokenizer, on as many processes, and
on the beginning of the text alone, because they would take hours: all figures are megabytes of text per second.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document, utf8_length
from data_pipeline.readers.files import FilesConfig

VOCABULARY = 32_768
FILES = 8
CLEANING = {
    " with quality rules and deduplication": [
        "cleaning.quality.enabled=true",
        "cleaning.duplicates.exact.enabled=true",
        "cleaning.duplicates.near.enabled=true",
    ],
    " with all of cleaning=standard": ["cleaning=standard"],
}
SAMPLE_BYTES = 24_000_000
"""Of text for those that are slow; their speed doesn't depend on how much more would follow."""


def preparation_lines(texts: Path, megabytes: int) -> Iterator[str]:
    """Yield a line per way, with the ratio of our command's speed to it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = [document.text for document in documents_of(texts)]
        corpus, size = repeated(folder, documents, megabytes * 1_000_000)
        tokenizer = _trained(folder, texts)
        sample = _sample(documents)
        once, once_size = repeated(folder, documents, 0)
        ours = {"": _our_speed(folder, corpus, size, tokenizer, [])}
        yield f"headrace prepare, {size / 1e6:,.0f} MB: {ours['']:.2f} MB/s"
        for name, overrides in CLEANING.items():  # without repetition, which would be dropped before it costs anything
            ours[name] = _our_speed(folder, once, once_size, tokenizer, overrides)
            yield f"headrace prepare{name}, {once_size / 1e6:,.0f} MB: {ours[name]:.2f} MB/s"
        others: dict[str, Callable[[Path, list[str], Path], None]] = {
            "tokenizers.encode_batch alone": _encode_batch,
            "a Megatron-style loop": _megatron_style,
            "datatrove's tokenizer pipeline": _datatrove,
        }
        for other, run in others.items():
            try:
                speed = _speed(run, folder, sample, tokenizer)
            except ImportError as error:
                yield f"{other} is left out: {error}"
                continue
            ratios = ", ".join(f"{our_speed / speed:.1f}{name}" for name, our_speed in ours.items())
            yield f"{other}: {speed:.2f} MB/s; ratios {ratios}"


def documents_of(texts: Path) -> Iterator[Document]:
    corpus = open_corpus(FilesConfig([str(texts)]))
    for unit in corpus.units():
        yield from (item for item in corpus.read(unit) if isinstance(item, Document))


def repeated(folder: Path, documents: list[str], least: int) -> tuple[Path, int]:
    """Write the documents over and over, once at least, as JSON lines; return their folder and the bytes of text."""
    target = folder / f"texts-{least}"
    target.mkdir()
    once = sum(map(utf8_length, documents))
    copies = max(1, -(-least // once))
    for number in range(FILES):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[number::FILES]).encode()
        with gzip.open(target / f"{number}.jsonl.gz", "wb", compresslevel=1) as file:
            for _ in range(copies):
                file.write(lines)
    return target, copies * once


def _trained(folder: Path, texts: Path) -> Path:
    output = folder / "for-the-tokenizer"
    _prepare(f"corpus.paths=['{texts}']", f"tokenizer.vocabulary_size={VOCABULARY}", f"output={output}")
    shutil.move(output / "tokenizer", folder / "tokenizer")
    shutil.rmtree(output)
    return folder / "tokenizer"


def _our_speed(folder: Path, corpus: Path, size: int, tokenizer: Path, cleaning: list[str]) -> float:
    output = folder / "dataset"
    started = time.perf_counter()
    _prepare(
        *(f"corpus.paths=['{corpus}/*.jsonl.gz']", "tokenizer=file", f"tokenizer.path={tokenizer}", f"output={output}"),
        *cleaning,
    )
    seconds = time.perf_counter() - started
    shutil.rmtree(output)
    return size / 1e6 / seconds


def _prepare(*arguments: str) -> None:
    command = [sys.executable, "-m", "data_pipeline.prepare", "corpus=files", *arguments]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _sample(documents: list[str]) -> list[str]:
    sample, size = [], 0
    for text in documents:
        sample.append(text)
        size += utf8_length(text)
        if size >= SAMPLE_BYTES:
            break
    return sample


def _speed(run: Callable[[Path, list[str], Path], None], folder: Path, sample: list[str], tokenizer: Path) -> float:
    work = folder / "other"
    work.mkdir()
    started = time.perf_counter()
    run(work, sample, tokenizer)
    seconds = time.perf_counter() - started
    shutil.rmtree(work)
    return sum(map(utf8_length, sample)) / 1e6 / seconds


def _encode_batch(folder: Path, sample: list[str], tokenizer: Path) -> None:
    """Texts in memory to ids in memory, on all cores, by its own threads."""
    from tokenizers import Tokenizer

    Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode_batch(sample, add_special_tokens=False)


def _megatron_style(folder: Path, sample: list[str], tokenizer: Path) -> None:
    """A pool of processes that parse and encode a line each, and one writer of tokens and their offsets."""
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in sample), encoding="utf-8")
    processes = len(os.sched_getaffinity(0))
    with (
        multiprocessing.get_context("fork").Pool(
            processes, _start_encoder, (str(tokenizer / "tokenizer.json"),)
        ) as pool,
        open(source, encoding="utf-8") as lines,
        open(folder / "out.bin", "wb") as tokens,
        open(folder / "out.idx", "wb") as index,
    ):
        end = 0
        for ids in pool.imap(_encode_line, lines, 32):
            tokens.write(np.array(ids, np.uint16).tobytes())
            end += len(ids)
            index.write(struct.pack("<Q", end))


def _start_encoder(path: str) -> None:
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder.append(Tokenizer.from_file(path))


def _encode_line(line: str) -> list[int]:
    return _encoder[0].encode(json.loads(line)["text"], add_special_tokens=False).ids


_encoder: list = []


def _datatrove(folder: Path, sample: list[str], tokenizer: Path) -> None:
    """Its local executor with a reader of JSON lines and its tokenizing writer, a file and a task per core."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    processes = len(os.sched_getaffinity(0))
    source = folder / "in"
    source.mkdir()
    for number in range(processes):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in sample[number::processes])
        (source / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    pipeline = [
        JsonlReader(str(source)),
        DocumentTokenizer(
            str(folder / "out"),
            local_working_dir=str(folder / "work"),
            tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
            eos_token="<|endoftext|>",
        ),
    ]
    LocalPipelineExecutor(pipeline, tasks=processes, workers=processes, logging_dir=str(folder / "logs")).run()


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for line in preparation_lines(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
