"""A dataset folder as a run reads it: what is streamed is settled here, once, from the settings and the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.curriculum import RampConfig, Segment, StageConfig, plan_segments
from data_pipeline.foundation.errors import UserError
from data_pipeline.line import Line
from data_pipeline.manifest import load_manifest
from data_pipeline.mixture import Mixture
from data_pipeline.order import DEFAULT_WINDOW, Order
from data_pipeline.packed_rows import rows_of_shards
from data_pipeline.packing import KINDS, BestFit, Concatenate, Packing
from data_pipeline.sequences import Sequences
from data_pipeline.shares import stage_shares
from data_pipeline.store import Store, records_by_source


@dataclass
class DataConfig:
    """What is streamed.

    Args:
        path: a dataset folder that `headrace prepare` wrote.
        sequence_length: tokens of a model's input, T.
        packing: `concatenate`, or `best_fit`, which cuts no document that could be whole.
        window: sequences that are shuffled among themselves, on top of the shuffled blocks.
        shards_together: shards whose blocks are shuffled among themselves: so many are needed at once.
        weights: shares of the sources, by name; those in the dataset if empty, and if it has none, all of it is one.
        epochs: passes over sources during the run; what is left of it goes to the others by their weights.
        stages: stretches of the run with other weights, lengths or batches.
        ramp: of the sequence length at the beginning.
    """

    path: str = "???"
    sequence_length: int = 256
    packing: str = "concatenate"
    window: int = DEFAULT_WINDOW
    shards_together: int = 16
    weights: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    stages: list[StageConfig] = field(default_factory=list)
    ramp: RampConfig | None = None


def open_training(config: DataConfig, seed: int, segments: Sequence[Segment], steps: int) -> Sequences:
    """Open the training split of a dataset in the order of a run.

    Args:
        seed: of the order.
        segments: of the run, as `plan_segments` made them of these settings.
        steps: of the run; passes over sources are counted on them.

    Raises:
        UserError: no dataset there, settings that don't fit it, or less text than one sequence.
        Failure: an index is damaged.
    """
    manifest = load_manifest(Path(config.path))
    store = Store(Path(config.path), manifest, "train")
    check_data(config)
    sources = records_by_source(store.shards)
    tokens = {source: sum(store.shards[number].tokens for number in numbers) for source, numbers in sources.items()}
    recorded = {source: counts.weight for source, counts in manifest.sources.items() if source in tokens}
    shares = stage_shares(_stages(config), stage_tokens(segments, steps), tokens, recorded)
    if shares is None:
        sources, shares = {"": list(range(len(store.shards)))}, [[1.0]] * max(1, len(config.stages))
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


def open_in_storage_order(config: DataConfig, split: str) -> Sequences:
    """Open a split for measuring: concatenated, in the order in which it lies, from the first sequence on.

    Raises:
        UserError: no dataset there, no such split, or one shorter than a sequence.
    """
    manifest = load_manifest(Path(config.path))
    store = Store(Path(config.path), manifest, split)
    check_data(config)
    packing = _concatenate(store, range(len(store.shards)))
    line = Line(manifest.fingerprint, packing.shard_lengths(), packing.cell_lengths, 1, shuffle=False)
    _require_sequence(config, split, "", line.length, config.sequence_length)
    segments = plan_segments(config.sequence_length, 1)
    order = Order(manifest.fingerprint, [line], segments, [Mixture([1.0])], config.window, shuffle=False)
    return Sequences(order, [packing], store, [""])


def check_data(config: DataConfig) -> None:
    """Refuse settings that can't work with any dataset. Raises UserError."""
    for key in ("sequence_length", "window", "shards_together"):
        if getattr(config, key) < 1:
            raise UserError(f"data.{key}={getattr(config, key)} must be at least 1")
    if config.packing not in KINDS:
        raise UserError(f"data.packing={config.packing}: there are {', '.join(KINDS)}")
    if config.stages and config.epochs:
        raise UserError("data.epochs counts on the whole run: with data.stages, say the passes in each stage")
    if config.packing == "best_fit" and (config.ramp or any(stage.sequence_length for stage in config.stages)):
        raise UserError(
            "data.packing=best_fit packs all documents for one length, so neither data.ramp nor a stage's "
            "sequence_length goes with it: leave them out, or take data.packing=concatenate"
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
    if config.packing != "best_fit":
        return [_concatenate(store, shards) for shards in sources]
    rows = rows_of_shards(store, fingerprint, "train", config.sequence_length)
    return [
        BestFit(shards, store.index, config.sequence_length, [rows[shard] for shard in shards]) for shards in sources
    ]


def _concatenate(store: Store, shards: Sequence[int]) -> Concatenate:
    return Concatenate(shards, [store.shards[number].tokens for number in shards], store.index)


def _require_sequence(config: DataConfig, split: str, source: str, tokens: int, length: int) -> None:
    if tokens < length + 1:
        of_source = f", source `{source}`" if source else ""
        raise UserError(
            f"{config.path}: split `{split}`{of_source}: {tokens} tokens are less than one sequence of {length} + 1; "
            "prepare more text or shorten data.sequence_length"
        )
