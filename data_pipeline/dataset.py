"""A dataset as a run reads it: what is streamed is settled here, once, from the settings and the manifest."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.curriculum import RampConfig, Segment, StageConfig, plan_segments
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import require_local, split_scheme
from data_pipeline.line import Line
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.mixture import Mixture
from data_pipeline.order import DEFAULT_WINDOW, Order
from data_pipeline.packed_rows import rows_of_shards
from data_pipeline.packing import CONCATENATE, KINDS, SINGLE, BestFit, Concatenate, Packing, document_lengths
from data_pipeline.raw_settings import RawConfig
from data_pipeline.sequences import Sequences
from data_pipeline.shares import stage_shares
from data_pipeline.storage.dataset_files import DatasetFiles, LocalFiles
from data_pipeline.storage.remote_files import CacheConfig, RemoteFiles, copy_description
from data_pipeline.store import Store, records_by_source

BAD_SHARDS = ("stop", "leave_out")


@dataclass
class DataConfig:
    """What is streamed.

    Args:
        path: a dataset folder that `headrace prepare` wrote, here or at a URL (http, https, s3, gs).
        sequence_length: tokens of a model's input, T.
        packing: `concatenate`; `best_fit`, which cuts no document that could be whole; or `single`, one a sequence.
        window: sequences that are shuffled among themselves, on top of the shuffled blocks.
        shards_together: shards whose blocks are shuffled among themselves: so many are needed at once.
        weights: shares of the sources, by name; those in the dataset if empty, and if it has none, all of it is one.
        epochs: passes over sources during the run; what is left of it goes to the others by their weights.
        stages: stretches of the run with other weights, lengths or batches.
        ramp: of the sequence length at the beginning.
        cache: of a dataset at a URL.
        bad_shards: what becomes of shards that are damaged, missing or out of reach and stay so: `stop` the run, or
            `leave_out` of what is learnt. Shards of the validation split always stop it.
        raw: text to stream as it comes, instead of a dataset, if `raw.paths` are given.
    """

    path: str | None = None
    sequence_length: int = 256
    packing: str = "concatenate"
    window: int = DEFAULT_WINDOW
    shards_together: int = 16
    weights: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    stages: list[StageConfig] = field(default_factory=list)
    ramp: RampConfig = field(default_factory=RampConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    bad_shards: str = "stop"
    raw: RawConfig = field(default_factory=RawConfig)


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found where the settings say.

    Args:
        config: the settings.
        files: of it, among them, in `files.folder`, its tokenizer.
    """

    config: DataConfig
    manifest: Manifest
    files: DatasetFiles


def open_dataset(config: DataConfig) -> Dataset:
    """Find a dataset. Of one at a URL, manifest and tokenizer are fetched; its shards are when they are needed.

    Raises:
        UserError: there is none, or settings that can't work.
        Failure: the server can't be reached.
    """
    check_data(config)
    if config.path is None:
        raise UserError("data.raw.paths: raw text is no dataset: make it one with `headrace prepare`")
    scheme, path = split_scheme(config.path)
    if scheme == "file":
        return Dataset(config, load_manifest(Path(path)), LocalFiles(Path(path)))
    copy, manifest = copy_description(config.path, config.cache)
    return Dataset(config, manifest, RemoteFiles(config.path, copy, config.cache))


def open_training(
    dataset: Dataset, seed: int, segments: Sequence[Segment], steps: int, lost: Collection[str] = ()
) -> Sequences:
    """Open the training split of a dataset in the order of a run.

    Args:
        seed: of the order.
        segments: of the run, as `plan_segments` made them of these settings.
        steps: of the run; passes over sources are counted on them.
        lost: names of bad files, whose shards are left out.

    Raises:
        UserError: settings that don't fit the dataset, or less text than one sequence.
        BadFile: an index that is needed to know the order can't be had.
    """
    config, manifest = dataset.config, dataset.manifest
    store = Store(dataset.files, manifest, "train", lost)
    sources = records_by_source(store.shards)
    tokens = {source: sum(store.shards[number].tokens for number in numbers) for source, numbers in sources.items()}
    recorded = {source: counts.weight for source, counts in manifest.sources.items() if source in tokens}
    shares = stage_shares(_stages(config), stage_tokens(segments, steps), tokens, recorded)
    if shares is None:
        sources, shares = {"": list(range(len(store.shards)))}, [[1.0]] * max(1, len(config.stages))
    if manifest.labelled:
        _require_whole_samples(config, store)
    identity = f"{manifest.fingerprint} {seed}"
    packings = _packings(config, store, manifest.fingerprint, list(sources.values()))
    lines = [
        Line(f"{identity} {source}", packing.shard_lengths(), packing.cell_lengths, config.shards_together)
        for source, packing in zip(sources, packings)
    ]
    longest = max(segment.length for segment in segments)
    for source, numbers in sources.items():
        _require_sequence(config, "train", source, sum(store.shards[number].tokens for number in numbers), longest)
    mixtures = [Mixture(each) for each in shares]
    order = Order(identity, lines, segments, mixtures, config.window, packed=packings[0].pads)
    return Sequences(order, packings, store, list(sources))


def open_in_storage_order(dataset: Dataset, split: str) -> Sequences:
    """Open a split for measuring, in the order in which it lies: text concatenated, samples packed as in training.

    Raises:
        UserError: no such split, or one shorter than a sequence.
    """
    config, manifest = dataset.config, dataset.manifest
    store = Store(dataset.files, manifest, split)
    shards = list(range(len(store.shards)))
    packing: Packing = _concatenate(store, shards)
    if manifest.labelled:
        single = config.packing == SINGLE
        rows = rows_of_shards(store, manifest.fingerprint, split, config.sequence_length, single)
        packing = BestFit(shards, store.index, config.sequence_length, rows, single)
    line = Line(manifest.fingerprint, packing.shard_lengths(), packing.cell_lengths, 1, shuffle=False)
    if not packing.pads:
        _require_sequence(config, split, "", line.length, config.sequence_length)
    segments = plan_segments(config.sequence_length, 1)
    mixtures = [Mixture([1.0])]
    order = Order(manifest.fingerprint, [line], segments, mixtures, config.window, packed=packing.pads, shuffle=False)
    return Sequences(order, [packing], store, [""])


def check_cache(dataset: Dataset, *splits: Sequences) -> None:
    """Refuse a cache that can't hold what is read together. Raises UserError."""
    limit = dataset.files.limit
    needed = [each for split in splits for each in split.needed_at_once()]
    size = sum(of_source for _, _, of_source in needed)
    if limit is None or size <= limit:
        return
    shards = " + ".join(str(count) for _, count, _ in needed)
    digits = 10.0 ** (2 - math.floor(math.log10(size)))
    raise UserError(
        f"data.cache.gigabytes={dataset.config.cache.gigabytes:g} is too small for the shards that are needed at once "
        f"({shards}, {size:,} bytes): raise it to {math.ceil(size * digits) / digits / 1e9:g}, or lower "
        f"data.shards_together={dataset.config.shards_together}, twice as many of which each source needs"
    )


def check_data(config: DataConfig) -> None:
    """Refuse settings that can't work with any data. Raises UserError."""
    if config.raw.paths:
        _check_raw(config)
    elif config.path is None:
        raise UserError(
            "`data.path` is required: give a dataset folder, here or at a URL, that `headrace prepare` wrote"
        )
    if config.bad_shards not in BAD_SHARDS:
        raise UserError(f"data.bad_shards={config.bad_shards}: there are {', '.join(BAD_SHARDS)}")
    if config.cache.folder:
        require_local("data.cache.folder", config.cache.folder)
    if not config.cache.gigabytes > 0 or config.cache.ahead < 0:
        raise UserError("data.cache.gigabytes must be above 0, and data.cache.ahead not below")
    for key in ("sequence_length", "window", "shards_together"):
        if getattr(config, key) < 1:
            raise UserError(f"data.{key}={getattr(config, key)} must be at least 1")
    if config.packing not in KINDS:
        raise UserError(f"data.packing={config.packing}: there are {', '.join(KINDS)}")
    if config.stages and config.epochs:
        raise UserError("data.epochs counts on the whole run: with data.stages, say the passes in each stage")
    changes = config.ramp.start or any(stage.sequence_length for stage in config.stages)
    if config.packing != CONCATENATE and changes:
        raise UserError(
            f"data.packing={config.packing} packs all documents for one length, so neither data.ramp nor a stage's "
            "sequence_length goes with it: leave them out, or take data.packing=concatenate"
        )


def _check_raw(config: DataConfig) -> None:
    config.raw.check()
    require_local("data.raw.tokenizer", config.raw.tokenizer or "")
    mixed = config.weights or config.epochs or any(stage.weights or stage.epochs for stage in config.stages)
    refused = {
        "path": config.path is not None,
        "packing": config.packing != CONCATENATE,
        "bad_shards": config.bad_shards != "stop",
        "weights, data.epochs": bool(mixed),
    }
    for key, given in refused.items():
        if given:
            raise UserError(
                f"data.{key} does nothing for raw text, which is read as it comes: leave it out, or prepare the text "
                "and give the dataset with data.path instead of data.raw.paths"
            )


def stage_tokens(segments: Sequence[Segment], steps: int) -> dict[int, int]:
    """Return the target tokens of each stage in a run of so many steps."""
    found: dict[int, int] = {}
    for segment in segments:
        count = steps - segment.first_step if segment.steps is None else min(segment.steps, steps - segment.first_step)
        found[segment.stage] = found.get(segment.stage, 0) + max(0, count) * segment.sequences * segment.length
    return found


def _stages(config: DataConfig) -> list[StageConfig]:
    """Return the stages with the run's weights where they have none of their own; a run without stages is one."""
    if not config.stages:
        return [StageConfig(weights=config.weights, epochs=config.epochs)]
    return [replace(stage, weights=stage.weights or config.weights) for stage in config.stages]


def _packings(config: DataConfig, store: Store, fingerprint: str, sources: list[list[int]]) -> list[Packing]:
    if config.packing == CONCATENATE:
        return [_concatenate(store, shards) for shards in sources]
    length, single = config.sequence_length, config.packing == SINGLE
    rows = rows_of_shards(store, fingerprint, "train", length, single)
    return [BestFit(shards, store.index, length, [rows[shard] for shard in shards], single) for shards in sources]


def _concatenate(store: Store, shards: Sequence[int]) -> Concatenate:
    return Concatenate(shards, [store.shards[number].tokens for number in shards], store.index)


def _require_whole_samples(config: DataConfig, store: Store) -> None:
    """Refuse to cut samples: an answer without its prompt, or half an answer, would be learnt. Raises UserError."""
    if config.packing == CONCATENATE:
        raise UserError(
            f"data.packing={config.packing} would cut the samples of {config.path}: take data.packing=best_fit"
        )
    longest = cut = 0
    for shard in range(len(store.shards)):
        if shard in store.left_out:
            continue
        lengths = document_lengths(store.index(shard))
        longest = max(longest, int(lengths.max()))
        cut += int((lengths > config.sequence_length + 1).sum())
    if cut:
        raise UserError(
            f"{config.path}: {cut:,} samples are longer than data.sequence_length={config.sequence_length} and would "
            f"be cut: raise it to {longest - 1}, or leave them out when you prepare"
        )


def _require_sequence(config: DataConfig, split: str, source: str, tokens: int, length: int) -> None:
    if tokens < length + 1:
        of_source = f", source `{source}`" if source else ""
        raise UserError(
            f"{config.path}: split `{split}`{of_source}: {tokens} tokens are less than one sequence of {length} + 1; "
            "prepare more text or shorten data.sequence_length"
        )
