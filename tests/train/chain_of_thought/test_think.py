"""Each strategy asks as its paper says, and the answer is found in what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import yaml

from data_pipeline.foundation.configuration import configuration_folder
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.options import option_names
from train.chain_of_thought.answers import ExtractConfig, extract, number
from train.chain_of_thought.strategy import StrategyConfig, check_strategy, load_strategy
from train.chain_of_thought.think import examples_before, parts_of, think, vote
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig

NUMBER = ExtractConfig("number")
PLAIN = SamplingConfig(64, 0.0)


class Scripted(TextModel):
    """Says what a script holds for a prompt, and remembers what it was asked, and how."""

    def __init__(self, script: dict[str, str | list[str]]):
        self.script = script
        self.asked: list[tuple[str, float, int | None]] = []

    def write(self, prompts: Sequence[str], sampling: SamplingConfig, seeds: Sequence[int] | None = None) -> list[str]:
        texts = []
        for row, prompt in enumerate(prompts):
            self.asked.append((prompt, sampling.temperature, None if seeds is None else seeds[row]))
            said = self.script[prompt]
            texts.append(said if isinstance(said, str) else said.pop(0))
        return texts


def test_zero_shot_asks_for_steps_and_then_for_the_answer():
    steps = "Q: 7 + 5?\nA: Let's think step by step."
    model = Scripted({steps: " 7 and 3 is 10, and 2 more is 12.", f"{steps} 7 and 3 is 10, and 2 more is 12.\n"
                      "Therefore, the answer is": " 12. (in base 10)"})  # fmt: skip
    [thought] = think(
        model, ["Q: 7 + 5?\nA:"], ["7 + 5?"], load_strategy("zero_shot"), replace(NUMBER, which="first"), PLAIN
    )
    assert thought.answer == "12"
    assert thought.text == " 7 and 3 is 10, and 2 more is 12.\nTherefore, the answer is 12. (in base 10)"


def test_zero_shot_in_chinese():
    asked = "问:七加五?\n答:让我们一步一步地思考。"
    model = Scripted({asked: "七加三是十。", f"{asked}七加三是十。\n因此,答案是": "１２。"})
    strategy = load_strategy("zero_shot_zh")
    assert think(model, ["问:七加五?\n答:"], [""], strategy, NUMBER, PLAIN)[0].answer == "12"


def test_self_consistency_takes_the_answer_of_most_samples():
    strategy = load_strategy({"name": "self_consistency", "samples": 5, "trigger": ""})
    model = Scripted({"one": ["is 3", "is 4", "dunno", "so 4", "3 and 5"], "two": ["is 1"] * 5})
    one, two = think(model, ["one", "two"], ["", ""], strategy, NUMBER, replace(PLAIN, seed=100))
    assert (one.answer, one.votes, one.text) == ("4", {"3": 1, "4": 2, "5": 1}, "is 4")
    assert (two.answer, two.votes) == ("1", {"1": 5})
    assert [seed for _, _, seed in model.asked] == list(range(100, 110)), "every sample has a seed of its own"
    assert {temperature for _, temperature, _ in model.asked} == {0.7}


def test_of_answers_with_as_many_votes_the_earlier_is_taken():
    assert vote(["a", "b", "c", "d"], ["2", "1", "1", "2"]).answer == "2"
    assert vote(["a", "b"], [None, None]).answer is None


def test_least_to_most_answers_each_part_with_the_answers_before_it():
    strategy = load_strategy("least_to_most")
    question = "Amy has 3, Bo has 2 more. All?"
    first = f"{question}\n\nQ: How many has Bo?\nA:"
    second = f"{question}\n\nQ: How many has Bo?\nA: 5\n\nQ: {question}\nA:"
    decompose = f"Q: {question}\nA: To answer this, we first need to answer these questions:\n1."
    model = Scripted({decompose: " How many has Bo?\n", first: " 5 ", second: " 3 and 5 is 8", "x": ""})
    [thought] = think(model, [""], [question], strategy, NUMBER, PLAIN)
    assert thought.answer == "8"
    assert [prompt for prompt, _, _ in model.asked] == [decompose, first, second]


def test_parts_are_lines_without_their_numbers():
    assert parts_of(" How many?\n2. How long?\n\n- Why?\n4) When?", 3) == ["How many?", "How long?", "Why?"]


def test_worked_examples_of_a_strategy_stand_before_a_prompt(tmp_path):
    (tmp_path / "worked.jsonl").write_text('{"question": "1+1", "answer": "One and one: 2"}\n{"question": "9"}\n')
    strategy = load_strategy({"name": "few_shot", "examples": str(tmp_path / "worked.jsonl"), "shots": 1})
    assert examples_before(strategy) == "Q: 1+1\nA: One and one: 2\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the total is 1,234 apples and 5", "5"), ("1,234,567", "1234567"), ("it costs $3.50.", "3.5"), ("12.", "12"),
        ("-0.0", "0"), ("x = −7", "-7"), ("10-3", "3"), ("７２ 元", "72"), ("1e5", "5"), ("007", "7"), ("none", None),
        ("3.0", "3"), ("100", "100"),
    ],
)  # fmt: skip
def test_the_last_number_is_found_by_its_value(text, expected):
    assert extract(text, NUMBER) == expected


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        (ExtractConfig("after", phrase="The answer is"), "The answer is 3. The answer is: (B).\nThe end", "(B)"),
        (ExtractConfig("after", phrase="The answer is", which="first"), "The answer is 3.\nThe answer is 4.", "3"),
        (ExtractConfig("after", phrase="答案是"), "所以答案是:北京。", "北京"),
        (ExtractConfig("after", phrase="The answer is"), "no idea", None),
        (ExtractConfig("regex", pattern=r"\(([A-E])\)"), "(A) or (C)", "C"),
        (ExtractConfig("regex", pattern=r"[A-E]", which="first"), "B, no: D", "B"),
        (ExtractConfig("whole"), "  Yes \n", "Yes"),
        (ExtractConfig("whole", ignore_case=True), " YES", "yes"),
        (ExtractConfig("whole"), "  ", None),
    ],
)  # fmt: skip
def test_an_answer_is_found_where_it_is_said_to_be(config, text, expected):
    assert extract(text, config) == expected


def test_numbers_that_are_none():
    assert [number(text) for text in ("", "ten", "nan", "inf", "1 2")] == [None] * 5


@pytest.mark.parametrize("option", option_names("strategy"))
def test_every_strategy_loads_and_says_nothing_that_is_not_in_its_file(option):
    content = yaml.safe_load((configuration_folder() / "strategy" / f"{option}.yaml").read_text(encoding="utf-8"))
    strategy = load_strategy(option)
    assert all(getattr(strategy, key) == value for key, value in content.items() if key != "defaults")


@pytest.mark.parametrize(
    "settings", [{"samples": 0}, {"samples": 2, "temperature": 0.0}, {"decompose": "x"}, {"parts": 0}]
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(UserError):
        check_strategy(replace(StrategyConfig(), **settings))
    with pytest.raises(UserError, match=r"unknown key `sampels`\. Did you mean `samples`"):
        load_strategy({"sampels": 3})
