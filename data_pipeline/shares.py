"""What part of each stage of a run comes from which source: by weights, by passes over a source, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_pipeline.curriculum import StageConfig
from data_pipeline.foundation.configuration import nearest
from data_pipeline.foundation.errors import UserError

ROUNDING = 0.005
"""Passes that miss the length of a run by no more than this share of it are meant to fill it."""


def stage_shares(
    stages: Sequence[StageConfig],
    stage_tokens: Mapping[int, int],
    source_tokens: Mapping[str, int],
    recorded: Mapping[str, float | None],
) -> list[list[float]] | None:
    """Return the shares of all sources in each stage, or None where nobody asks for a mixture.

    Args:
        stages: with the run's own weights and passes where a stage has none.
        stage_tokens: target tokens of each stage.
        source_tokens: tokens of each source.
        recorded: weights that were given to sources when they were prepared.

    Raises:
        UserError: an unknown source, one without a weight, or passes that don't fit into the run.
    """
    weights_recorded = {source: weight for source, weight in recorded.items() if weight is not None}
    if not weights_recorded and not any(stage.weights or stage.epochs for stage in stages):
        return None
    shares = []
    for number, stage in enumerate(stages):
        where = f"data.stages[{number}]" if len(stages) > 1 else "data"
        weights = stage.weights or weights_recorded
        _check(f"{where}.weights", weights, source_tokens)
        _check(f"{where}.epochs", stage.epochs, source_tokens)
        if both := [source for source in stage.epochs if source in stage.weights]:
            raise UserError(f"{where}: {', '.join(both)} has both a weight and passes (epochs): give one of them")
        shares.append(_shares(where, weights, stage.epochs, stage_tokens.get(number, 0), source_tokens))
    return shares


def _check(key: str, values: Mapping[str, float], sources: Mapping[str, int]) -> None:
    for source, value in values.items():
        if source not in sources:
            hint = nearest(source, list(sources))
            raise UserError(f"{key}: the dataset has no source `{source}`.{hint} It has {', '.join(sources)}")
        if value < 0:
            raise UserError(f"{key}.{source}={value} must not be below 0")


def _shares(
    where: str,
    weights: Mapping[str, float],
    epochs: Mapping[str, float],
    tokens: int,
    source_tokens: Mapping[str, int],
) -> list[float]:
    by_passes = {source: passes * source_tokens[source] / max(1, tokens) for source, passes in epochs.items()}
    others = [source for source in source_tokens if source not in by_passes]
    if missing := [source for source in others if weights and source not in weights]:
        raise UserError(f"{where}.weights names no weight for {', '.join(missing)}: give one, 0 to leave a source out")
    weighed = {source: float(weights[source] if weights else source_tokens[source]) for source in others}
    taken, whole = sum(by_passes.values()), sum(weighed.values())
    if taken + whole == 0:
        raise UserError(f"{where}.weights: at least one source must have a weight above 0")
    if tokens and (taken > 1 + ROUNDING or (whole == 0 and taken < 1 - ROUNDING)):
        wanted = round(taken * tokens)
        raise UserError(
            f"{where}.epochs asks for {wanted:,} tokens and there are {tokens:,} to be seen: change the passes, "
            f"or the number of steps by a factor of {taken:.3f}"
            + ("" if taken > 1 else ", or give other sources a weight")
        )
    rest = max(0.0, 1 - taken)
    return [
        by_passes.get(source, rest * weighed.get(source, 0.0) / whole if whole else 0.0) for source in source_tokens
    ]
