"""`headrace inspect`: what a person wants to see of a dataset: counts, a few documents, and what a run reads when."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import MISSING

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb
from data_pipeline.labels import EXPECTED, LEARNT, REJECTED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_pipeline.curriculum import Segment
    from data_pipeline.dataset import DataConfig, Dataset
    from data_pipeline.manifest import Manifest
    from data_pipeline.sequences import Sequences
    from data_pipeline.store import Store
    from data_pipeline.tokenization.tokenizer import Tokenizer


@dataclass
class InspectConfig:
    """What to look at.

    Args:
        source: a dataset folder, here or at a URL, or a run's folder for the data that it reads.
        documents: how many to show.
        split: they are from.
        step: of a run, from 1 on: show what it reads in that step.
        sequence: of the step, from 0 on; all of them if left out.
        characters: of a text, at the most.
    """

    source: str = MISSING
    documents: int = 3
    split: str = "train"
    step: int | None = None
    sequence: int | None = None
    characters: int = 600


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a document.

    Args:
        source: of the dataset's sources.
        shard, block, document: where it lies: the tar, the sample in it, the document in that.
        key: where it came from before; None where that wasn't kept.
        first, stop: tokens of the document.
        text: as the tokenizer reads the tokens back.
        labelled: of a sample, the same text in pieces, each with the label of its tokens; see `labels`.
    """

    source: str
    shard: str
    block: int
    document: int
    key: str | None
    first: int
    stop: int
    text: str
    labelled: list[tuple[str, int]] | None = None


@dataclass(frozen=True)
class SequenceView:
    """What one sequence of a step is made of."""

    number: int
    tokens: int
    excerpts: list[Excerpt] = field(default_factory=list)


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Return what is to be seen, as plain data.

    Raises:
        UserError: no dataset or run there, or no such step or sequence.
        Failure: the dataset is damaged.
    """
    from data_pipeline.dataset import DataConfig, open_dataset
    from data_pipeline.store import Store
    from data_pipeline.tokenization.tokenizer import load_tokenizer

    run = _run_settings(config.source)
    dataset = open_dataset(_data_of_run(run) if run else DataConfig(config.source))
    tokenizer, name = load_tokenizer(dataset.files.folder / "tokenizer"), dataset.files.name
    if config.step is not None:
        if run is None:
            raise UserError(
                f"step={config.step}: {name} is a dataset; what is read in a step is a run's: give its folder"
            )
        return {"dataset": name, "step": config.step, "sequences": _step(config, run, dataset, tokenizer)}
    store = Store(dataset.files, dataset.manifest, config.split)
    return {"dataset": name, **_counts(dataset.manifest), "documents": _documents(config, store, tokenizer)}


def _run_settings(source: str) -> dict[str, Any] | None:
    """Return the settings of a run's folder, or None where it isn't one."""
    import yaml

    path = Path(source) / "config.yaml"
    if not path.is_file():
        return None
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "data" not in settings:
        raise UserError(f"{path} is not the configuration of a run")
    return settings


def _counts(manifest: Manifest) -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint,
        "vocabulary": manifest.vocabulary_size,
        "splits": {name: asdict(counts) for name, counts in manifest.splits.items()},
        "sources": {name: asdict(counts) for name, counts in manifest.sources.items()},
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes + shard.index_bytes for shard in manifest.shards),
    }


def _documents(config: InspectConfig, store: Store, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return documents from evenly spaced blocks of the split."""
    from data_pipeline.pieces import Pieces

    blocks = [(shard, block) for shard, record in enumerate(store.shards) for block in range(record.blocks)]
    found = []
    for at in range(min(config.documents, len(blocks))):
        shard, block = blocks[at * len(blocks) // config.documents]
        piece = Pieces.single(shard, block, 0, len(store.block(shard, block)[0]))
        found += [asdict(excerpt) for excerpt in _excerpts(store, piece, tokenizer, config.characters)]
    return found


def _step(config: InspectConfig, run: dict[str, Any], dataset: Dataset, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    import numpy as np

    sequences = _open_run(run, dataset)
    assert config.step is not None
    if config.step < 1:
        raise UserError(f"step={config.step}: steps are counted from 1")
    numbers = sequences.order.steps.numbers(config.step - 1)
    if config.sequence is not None:
        if not 0 <= config.sequence < len(numbers):
            raise UserError(f"sequence={config.sequence}: step {config.step} has {len(numbers)}, counted from 0")
        numbers = numbers[config.sequence : config.sequence + 1]
    views = []
    for number in numbers:
        length, pieces = sequences.pieces(np.array([number]))
        ordered = pieces.at(np.argsort(pieces.columns))
        excerpts = list(_excerpts(sequences.store, ordered, tokenizer, config.characters))
        views.append(asdict(SequenceView(number, length, excerpts)))
    return views


def _data_of_run(run: dict[str, Any]) -> DataConfig:
    from omegaconf import OmegaConf

    from data_pipeline.dataset import DataConfig

    return cast(DataConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), run["data"])))


def _open_run(run: dict[str, Any], dataset: Dataset) -> Sequences:
    from data_pipeline.curriculum import RampConfig, plan_segments
    from data_pipeline.dataset import open_training

    data, batch = dataset.config, run["batch"]
    ramp = RampConfig(**batch["ramp"])
    segments: list[Segment] = plan_segments(data.sequence_length, batch["sequences"], data.stages, data.ramp, ramp)
    return open_training(dataset, run["seed"], segments, run["steps"])


def _excerpts(store: Store, pieces: Any, tokenizer: Tokenizer, characters: int) -> Iterator[Excerpt]:
    """Yield the documents, or what of them lies in pieces, in the order of the pieces."""
    from data_pipeline.shards import read_provenance

    for shard, block, first, length in zip(
        *(getattr(pieces, name).tolist() for name in ("shards", "blocks", "offsets", "lengths"))
    ):
        record = store.shards[shard]
        with store.open(shard) as file:
            keys = read_provenance(Path(file.name), store.index(shard), block)
        start = 0
        for number, document in enumerate(store.block(shard, block)):
            low, high = max(first, start), min(first + length, start + len(document))
            if low < high:
                text = tokenizer.decode(document[low - start : high - start].tolist())
                labelled = None
                if store.labelled:
                    labelled = _labelled(document[low - start :], store.labels(shard, block)[low:high], tokenizer)
                yield Excerpt(
                    source=record.source,
                    shard=record.name,
                    block=block,
                    document=number,
                    key=keys[number] if keys else None,
                    first=low - start,
                    stop=high - start,
                    text=text if len(text) <= characters else text[:characters] + "…",
                    labelled=labelled,
                )
            start += len(document)


def _labelled(tokens: NDArray, labels: NDArray[np.uint8], tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Return the text of tokens, cut where their labels change."""
    runs = itertools.groupby(range(len(labels)), lambda at: int(labels[at]))
    return [(tokenizer.decode([int(tokens[at]) for at in places]), label) for label, places in runs]


STYLES = {0: "dim", LEARNT: "green", REJECTED: "dim", LEARNT | REJECTED: "red", EXPECTED: "yellow"}
"""Of a sample: what is only read, what is learnt, the answer that is to become less likely, and the one to be found."""


def _print(seen: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if "sequences" in seen:
        for view in seen["sequences"]:
            console.print(Text(f"step {seen['step']}, sequence {view['number']:,} of the run", style="bold"))
            _print_excerpts(console, view["excerpts"])
        return
    console.print(Text(f"{seen['dataset']}", style="bold"))
    console.print(
        f"{seen['shards']:,} shards, {seen['bytes'] / 1e6:,.1f} MB, vocabulary {seen['vocabulary']:,}, "
        f"fingerprint {seen['fingerprint'][:12]}"
    )
    table = Table("", "documents", "tokens", "MB of text", "bytes/token", "weight", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in ("splits", "sources"):
        for name, counts in seen[kind].items():
            weight = counts.get("weight")
            table.add_row(
                Text(name),
                f"{counts['documents']:,}",
                f"{counts['tokens']:,}",
                f"{counts['bytes'] / 1e6:,.1f}",
                f"{counts['bytes'] / max(1, counts['tokens']):.2f}",
                "" if weight is None else f"{weight:g}",
            )
        table.add_section()
    console.print(table)
    _print_excerpts(console, seen["documents"])


def _print_excerpts(console: Any, excerpts: Sequence[dict[str, Any]]) -> None:
    from rich.text import Text

    for each in excerpts:
        place = f"{each['source']}: {each['shard']}, block {each['block']}, document {each['document']}"
        tokens = f"tokens {each['first']:,} to {each['stop']:,}"
        origin = f" ({each['key']})" if each["key"] else ""
        console.print(Text(f"\n{place}, {tokens}{origin}", style="cyan"))
        if each["labelled"] is None:
            console.print(Text(each["text"]))
        else:
            console.print(Text.assemble(*((text, STYLES[label]) for text, label in each["labelled"])))


def _run(request: Request) -> int:

    composed = request.compose("inspect", InspectConfig)
    if composed is None:
        return 0
    seen = inspect(composed.value)
    if request.json:
        print(json.dumps(seen, ensure_ascii=False))
    else:
        _print(seen)
    return 0


VERB = Verb(
    name="inspect",
    summary="a dataset's counts and documents, or what a run reads in a step and where it came from",
    run=_run,
    keys=(
        ("source", "a dataset folder or its URL, or a run's folder"),
        ("documents", "how many to show"),
        ("step", "of a run, counted from 1: show what it reads then"),
        ("sequence", "of the step, counted from 0; all if left out"),
        ("characters", "of a text, at the most"),
    ),
    examples=(
        "headrace inspect source=datasets/python_docs",
        "headrace inspect source=runs/demo step=300 sequence=2",
        "headrace inspect source=datasets/web split=validation documents=10 --json",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
