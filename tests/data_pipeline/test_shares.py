"""Weights and passes become shares of each stage, and what can't be meant is refused before anything is paid for."""

from __future__ import annotations

import pytest

from data_pipeline.curriculum import StageConfig
from data_pipeline.foundation.errors import UserError
from data_pipeline.shares import stage_shares

TOKENS = {"web": 1000, "code": 500, "wiki": 100}
NOTHING: dict[str, float | None] = dict.fromkeys(TOKENS)


def shares(*stages: StageConfig, tokens: int = 2000, recorded: dict[str, float | None] = NOTHING):
    return stage_shares(stages, dict.fromkeys(range(len(stages)), tokens), TOKENS, recorded)


def test_where_nobody_asks_there_is_no_mixture():
    assert shares(StageConfig()) is None
    assert shares(StageConfig(100), StageConfig()) is None


def test_weights_are_proportions():
    assert shares(StageConfig(weights={"web": 7, "code": 3, "wiki": 0})) == [[0.7, 0.3, 0.0]]


def test_weights_from_the_preparation_hold_unless_the_run_has_its_own():
    recorded = {"web": 1.0, "code": 1.0, "wiki": 2.0}
    assert shares(StageConfig(), recorded=recorded) == [[0.25, 0.25, 0.5]]
    own = StageConfig(weights={"web": 1, "code": 0, "wiki": 0})
    assert shares(own, StageConfig(), recorded=recorded) == [[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]]


def test_passes_take_what_they_need_and_weights_the_rest():
    (found,) = shares(StageConfig(epochs={"wiki": 4}, weights={"web": 3, "code": 1}))
    assert found == pytest.approx([0.6, 0.2, 0.2])


def test_without_weights_the_rest_is_as_the_sources_are_large():
    (found,) = shares(StageConfig(epochs={"wiki": 5}))
    assert found == pytest.approx([0.5, 0.25, 0.25])


def test_passes_alone_have_to_fill_the_run():
    (found,) = shares(StageConfig(epochs={"web": 1, "code": 1, "wiki": 5}))
    assert found == pytest.approx([0.5, 0.25, 0.25])
    with pytest.raises(UserError, match=r"data\.epochs asks for 1,600 tokens and there are 2,000"):
        shares(StageConfig(epochs={"web": 1, "code": 1, "wiki": 1}))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (StageConfig(weights={"wbe": 1}), r"data\.weights: the dataset has no source `wbe`\. Did you mean `web`\?"),
        (StageConfig(epochs={"x": 1}), r"data\.epochs: the dataset has no source `x`\. It has web, code, wiki"),
        (StageConfig(weights={"web": 1}), r"names no weight for code, wiki: give one, 0 to leave a source out"),
        (StageConfig(weights={"web": -1, "code": 1, "wiki": 1}), r"data\.weights\.web=-1 must not be below 0"),
        (StageConfig(weights={"web": 0, "code": 0, "wiki": 0}), r"at least one source must have a weight above 0"),
        (StageConfig(epochs={"web": 3}), r"asks for 3,000 tokens and there are 2,000.*by a factor of 1\.500"),
        (StageConfig(weights={"web": 1}, epochs={"web": 1}), r"web has both a weight and passes"),
    ],
)
def test_what_can_not_be_meant_is_named(stage, message):
    with pytest.raises(UserError, match=message):
        shares(stage)


def test_of_several_stages_the_wrong_one_is_named():
    with pytest.raises(UserError, match=r"data\.stages\[1\]\.weights names no weight for web, wiki"):
        shares(StageConfig(10), StageConfig(weights={"code": 1}))
