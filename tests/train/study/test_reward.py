"""A training by reward is held against what as much more training with steps gives, from the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.foundation.configuration import compose_configuration
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.study.accuracy import Accuracy
from train.study.page import write_page
from train.study.reward import half_learnt, reward_result, reward_settings, supervised_after

CURVE = [
    {"step": step, "seconds": seconds, "share": share, "low": share - 0.04, "high": share + 0.04, "problems": 500}
    for step, seconds, share in zip(
        (100, 200, 300, 400, 500), (50.0, 100.0, 150.0, 200.0, 250.0), (0.1, 0.45, 0.6, 0.88, 0.95)
    )
]
RESULT = {
    "problem": "product",
    "name": "steps",
    "seed": 2,
    "steps": 500,
    "tokens_learnt": 9,
    **CURVE[-1],
    "curve": CURVE,
}


def test_half_learnt_is_the_checkpoint_nearest_to_half_and_none_where_all_is_learnt_or_nothing():
    assert half_learnt(CURVE) == CURVE[2]
    assert half_learnt([CURVE[0], CURVE[-1]]) is None


@pytest.mark.parametrize(("seconds", "step"), [(0.0, 100), (150.0, 300), (150.1, 400), (999.0, 500)])
def test_supervision_gets_at_least_as_many_seconds_where_there_are_so_many(seconds, step):
    assert supervised_after(CURVE, seconds)["step"] == step


def test_the_page_shows_where_it_began_what_it_came_to_and_what_supervision_gives(tmp_path: Path):
    row = reward_result(RESULT, Accuracy(0.72, 0.68, 0.76, 500), 50, 81.0, 12345)
    assert (row["half"]["step"], row["supervised"]["step"]) == (300, 500)
    page = write_page(tmp_path, [RESULT, row]).read_text(encoding="utf-8")
    for text in ("72.0 %", "from step 300: 60.0 %", "95.0 %", "12345", "同样时间"):
        assert text in page


def test_its_settings_compose_and_learn_from_the_last_of_the_steps(tmp_path: Path):
    register_schemas()
    config = compose_configuration("train", reward_settings(tmp_path / "a b", tmp_path / "d"), TrainConfig).value
    assert config.objective.kind == "grpo" and config.start_from == str(tmp_path / "a b")
    assert config.objective.extract.phrase == ";"
