"""A study's trainings differ in one thing each, and its settings are never taken silently for something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.foundation.errors import UserError
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.study.chain_of_thought import DIRECT, DIRECT_AS_SUPERVISED, STEPS, run_study, ways_of
from train.study.page import write_page
from train.study.settings import StudyConfig

LEARNT = {"chain": {STEPS: 42, DIRECT: 6}, "product": {STEPS: 55, DIRECT: 28}}


def test_direct_answers_get_as_many_steps_and_with_the_first_seed_as_many_learnt_tokens_too():
    ways = list(ways_of(StudyConfig(seeds=[1, 2], chain_steps=100, product_steps=300), LEARNT))
    steps = {(way.problem, way.name): way.steps for way in ways}
    assert len(ways) == 2 * 3 + 2 and len({way.folder for way in ways}) == 8
    assert steps["chain", STEPS] == steps["chain", DIRECT] == 100
    assert steps["chain", DIRECT_AS_SUPERVISED] == 700
    assert steps["product", STEPS] == steps["product", DIRECT] == 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["seed=5"], "seed means nothing to a study: study.seeds"),
        (["steps=5"], "steps means nothing to a study: study.chain_steps"),
        (["data.path=x"], "data.path means nothing to a study"),
        (["study.seeds=[1,1]"], "must be different numbers"),
        (["study.kind=other"], "study.kind=other: there is chain_of_thought"),
        (["study.chain_steps=0", "study.product_steps=0"], "there is nothing to train"),
    ],
)
def test_settings_that_a_study_has_of_its_own_are_refused(settings, message):
    register_schemas()
    composed = compose_configuration("train", ["experiment=cot_theory", *settings], TrainConfig)
    with pytest.raises(UserError, match=message):
        run_study(composed, dry_run=True)


def test_the_page_shows_every_result_in_both_languages(tmp_path: Path):
    point = {"step": 10, "seconds": 5.0, "share": 0.57, "low": 0.53, "high": 0.61, "problems": 500}
    result = {"problem": "product", "name": STEPS, "seed": 1, "steps": 20, **point, "tokens_learnt": 99}
    result["curve"] = [point, {**point, "step": 20, "seconds": 10.0, "share": 0.99}]
    result["vote"] = {"step": 10, "alone": point, "votes": 20, "share": 0.84, "low": 0.8, "high": 0.88}
    page = write_page(tmp_path, [result]).read_text(encoding="utf-8")
    for text in ("57.0 %", "84.0 %", "思维链", "投票", "150.0,43.0 300.0,1.0"):
        assert text in page
