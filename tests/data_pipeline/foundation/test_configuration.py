"""Every mistake in a configuration is one line that names the key and the mend; nothing unknown slips in."""

from __future__ import annotations

import pytest

from data_pipeline import schemas as data_schemas
from data_pipeline.foundation.configuration import available_groups, compose_configuration, known_keys, register
from data_pipeline.foundation.errors import UserError
from data_pipeline.prepare import PrepareConfig
from data_pipeline.readers.sources import SourceConfig
from launch import schemas as launch_schemas
from launch.plan.settings import PlanConfig, register_plan
from train.chain_of_thought.strategy import StrategyConfig
from train.compress.settings import CompressConfig
from train.generation.settings import GenerateConfig
from train.schemas import register_schemas
from train.settings import TrainConfig


@pytest.fixture(autouse=True, scope="module")
def schemas() -> None:
    register_schemas()
    data_schemas.register_schemas()
    launch_schemas.register_schemas()


def compose(*overrides: str, folders=()) -> TrainConfig:
    return compose_configuration("train", ["data.path=x", *overrides], TrainConfig, folders).value


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(*overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_groups_that_look_like_numbers_are_taken_as_typed():
    assert compose("zero=2").zero.stage == 2
    assert compose("zero=3_offload").zero.offload_parameters


@pytest.mark.parametrize("group", available_groups())
def test_every_option_of_every_group_composes(group):
    if group == "task":
        pytest.skip("files of `headrace evaluate`, not options")
    of_preparation = group.split("/")[0] in ("cleaning", "corpus", "engine", "tokenizer")
    for option in available_groups()[group]:
        if of_preparation:
            needed = ["output=x", *(["tokenizer.path=x"] if option == "file" else [])]
            compose_configuration("prepare", [*needed, f"{group}={option}"], PrepareConfig)
        elif group in ("device", "network"):
            register_plan()
            compose_configuration("plan", [f"{group}={option}"], PlanConfig)
        elif group == "method":
            register("compress_schema", CompressConfig)
            compose_configuration("compress", ["source=x", "output=x", f"method={option}"], CompressConfig)
        elif group == "strategy":
            register("generate_schema", GenerateConfig)
            register("strategy_schema", StrategyConfig, group="strategy")
            compose_configuration("generate", ["source=x", f"strategy={option}"], GenerateConfig)
        else:
            compose(f"{group}={option}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stepz=3", "`steps`"),
        ("model.widht=3", "`model.width`"),
        ("modell=nano", "`model`"),
        ("model=nanoo", "`nano`"),
        ("steps=many", "`steps`"),
        ("zero.stage=first", "`zero.stage`"),
        ("+stepz=3", "without the plus sign"),
        ("+model._target_=os.system", "without the plus sign"),
        ("model._target_=os.system", "unknown key"),
        ("~steps", "can't be removed"),
        ("steps=1,2", "a sweep"),
        ("steps=[1", "KEY=VALUE"),
        ("steps", "KEY=VALUE"),
        ("hydra.run.dir=/", "Hydra's own"),
    ],
)
def test_a_mistake_is_named_with_its_mend(override, expected):
    assert expected in message(override)


def test_a_required_key_is_asked_for_by_name():
    with pytest.raises(UserError, match=r"`output` is required"):
        compose_configuration("prepare", [], PrepareConfig)


def test_what_passes_through_to_deepspeed_keeps_its_nesting():
    options = compose("deepspeed.wall_clock_breakdown=true", "deepspeed.zero_optimization.sub_group_size=7").deepspeed
    assert options == {"wall_clock_breakdown": True, "zero_optimization": {"sub_group_size": 7}}


def test_a_folder_of_the_users_own_adds_options(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine\nwidth: 96\nheads: 3\n")
    assert compose("model=mine", folders=[tmp_path]).model.width == 96
    (tmp_path / "model" / "wrong.yaml").write_text("name: wrong\nwiddth: 96\n")
    with pytest.raises(UserError, match="widdth"):
        compose("model=wrong", folders=[tmp_path])


def test_known_keys_reach_into_groups():
    assert {"steps", "model.width", "checkpoint.every"} <= set(known_keys(TrainConfig))


SOURCES = ("output=x", "corpus=sources")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "corpus.sources.web.pathz=[a]",
            "unknown key `corpus.sources.web.pathz`. Did you mean `corpus.sources.web.paths`",
        ),
        ("corpus.sources={web: {pathz: [a]}}", "unknown key `corpus.sources.web.pathz`"),
        ("corpus.sources.web._target_=os.system", "unknown key `corpus.sources.web._target_`"),
        ("corpus.sources={web: {_target_: os.system}}", "unknown key `corpus.sources.web._target_`"),
        ("corpus.sources.web.weight=many", "`corpus.sources.web.weight`"),
        ("corpus.sources.web=3", "`web`"),
        ("corpus.sourcez.web.weight=3", "Did you mean `corpus.sources`?"),
        ("corpus.sources.a.b.c=3", "unknown key `corpus.sources.a.b`"),
        ("corpus.sources.2020.weight=3", "`2020` can't be a name"),
        ("+corpus.sources.web.weight=3", "without the plus sign"),
        ("++corpus.sources.web.pathz=3", "without the plus sign"),
    ],
)
def test_entries_of_a_users_choice_are_checked_inside(override, expected):
    with pytest.raises(UserError) as caught:
        compose_configuration("prepare", [*SOURCES, override], PrepareConfig)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_entries_of_a_users_choice_belong_to_their_option_alone():
    with pytest.raises(UserError, match=r"unknown key `corpus\.sources`"):
        compose_configuration("prepare", ["output=x", "corpus=files", "corpus.sources.web.weight=3"], PrepareConfig)


def test_entries_of_a_users_choice_take_the_defaults_of_their_dataclass():
    overrides = [
        *SOURCES,
        "corpus.sources.my-web.weight=3",
        "corpus.sources.my-web.paths=[a]",
        "corpus.sources.b.paths=[]",
    ]
    sources = compose_configuration("prepare", overrides, PrepareConfig).value.corpus.sources
    assert sources == {"my-web": SourceConfig(["a"], weight=3.0), "b": SourceConfig()}


def test_numbers_by_names_of_a_users_choice_are_checked():
    overrides = ["data.path=x", "data.weights={web: 1}", "data.weights.code=0.5", "data.epochs.wiki=3"]
    data = compose_configuration("train", overrides, TrainConfig).value.data
    assert (data.weights, data.epochs) == ({"web": 1.0, "code": 0.5}, {"wiki": 3.0})
    for wrong in ("data.weights.web=much", "data.weights.web.share=1", "data.weihgts.web=1"):
        with pytest.raises(UserError, match="data"):
            compose_configuration("train", ["data.path=x", wrong], TrainConfig)
