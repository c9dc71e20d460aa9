"""lm-evaluation-harness and our own scorer find the same scores on the same tasks, to the last bit."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_data import WORDS

from data_pipeline.foundation.errors import UserError
from train.evaluate.harness import read_task, run_harness
from train.evaluate.task import load_task, run_task
from train.generation.text_model import TextModel

pytestmark = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed (pip install 'headrace[harness]')",
)

RECORDS = 40


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def records(model: TextModel) -> dict[str, list[dict[str, Any]]]:
    """Make records by task; a share of the right answers are what the model writes, so that no score is 0 or 1."""
    draw = random.Random(3)
    sentiment = [{"text": sentence(draw, 6), "label": draw.randrange(2)} for _ in range(RECORDS)]
    algebra = [
        {"question": sentence(draw, 8), "options": [sentence(draw, draw.randint(1, 5)) for _ in range(5)],
         "correct": draw.choice("ABCDE")}
        for _ in range(RECORDS)
    ]  # fmt: skip
    pairs = [{"sent_more": f"the {sentence(draw, 7)}", "sent_less": f"a {sentence(draw, 7)}"} for _ in range(RECORDS)]
    questions = [f"Q: {sentence(draw, 5)}\nA:" for _ in range(RECORDS)]
    texts = model.write_greedily(questions, 24, ["ll"])
    sums = []
    for question, text in zip(questions, texts):
        found = [letter for letter in text if letter in "aeiou"]
        sums.append({"question": question, "answer": found[0] if found and draw.random() < 0.6 else "y"})
    captions = [
        {"source": question[3:-3], "target": f"{text.strip()[:20]} {sentence(draw, 2)}"}
        for question, text in zip(questions, texts)
    ]
    prose = [{"text": sentence(draw, draw.randint(5, 25))} for _ in range(RECORDS)]
    return {"sentiment": sentiment, "algebra": algebra, "pairs": pairs, "sums": sums, "captions": captions,
            "prose": prose}  # fmt: skip


OURS: dict[str, dict[str, Any]] = {
    "sentiment": {"kind": "multiple_choice", "prompt": "Review: {{ text }}\nSentiment:", "index": "{{ label }}",
                  "choices": ["negative", "positive"], "examples": "sentiment.jsonl", "shots": 2},
    "algebra": {"kind": "multiple_choice", "prompt": "Q: {{ question }}\nA:", "choices_field": "options",
                "index": "{{ 'ABCDE'.index(correct) }}"},
    "pairs": {"kind": "stereotype_pairs"},
    "sums": {"kind": "generation", "prompt": "{{ question }}", "tokens": 24, "stop": ["ll"],
             "extract": {"how": "regex", "pattern": "([aeiou])", "which": "first"}},
    "captions": {"kind": "translation", "prompt": "Q: {{ source }}\nA:", "tokens": 24, "stop": ["ll"]},
    "prose": {"kind": "text"},
}  # fmt: skip
CHOICE = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
WRITE = {"output_type": "generate_until",
         "generation_kwargs": {"until": ["ll"], "max_gen_toks": 24, "do_sample": False}}  # fmt: skip
THEIRS: dict[str, dict[str, Any]] = {
    "sentiment": CHOICE | {"doc_to_text": "Review: {{ text }}\nSentiment:", "doc_to_target": "label",
                           "doc_to_choice": ["negative", "positive"], "num_fewshot": 2, "fewshot_split": "test",
                           "fewshot_config": {"sampler": "first_n"}},
    "algebra": CHOICE | {"doc_to_text": "Q: {{ question }}\nA:", "doc_to_choice": "{{ options }}",
                         "doc_to_target": "{{ ['A', 'B', 'C', 'D', 'E'].index(correct) }}"},
    "pairs": CHOICE | {"doc_to_text": "", "doc_to_choice": "{{ [sent_more, sent_less] }}", "doc_to_target": 0,
                       "target_delimiter": "", "metric_list": [{"metric": "acc"}]},
    "sums": WRITE | {"doc_to_text": "{{ question }}", "doc_to_target": "{{ answer }}",
                     "metric_list": [{"metric": "exact_match"}],
                     "filter_list": [{"name": "vowel", "filter": [
                         {"function": "regex", "regex_pattern": "([aeiou])"}, {"function": "take_first"}]}]},
    "captions": WRITE | {"doc_to_text": "Q: {{ source }}\nA:", "doc_to_target": "{{ target }}",
                         "metric_list": [{"metric": "bleu"}, {"metric": "chrf"}],
                         "filter_list": [{"name": "strip", "filter": [
                             {"function": "remove_whitespace"}, {"function": "take_first"}]}]},
    "prose": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{ text }}",
              "metric_list": [{"metric": "bits_per_byte"}]},
}  # fmt: skip
SHARED = [
    ("sentiment", "accuracy", "acc"),
    ("sentiment", "accuracy_by_character", "acc_norm"),
    ("algebra", "accuracy", "acc"),
    ("algebra", "accuracy_by_character", "acc_norm"),
    ("pairs", "stereotype_preferred", "acc"),
    ("sums", "exact_match", "exact_match/vowel"),
    ("captions", "bleu", "bleu/strip"),
    ("captions", "chrf", "chrf/strip"),
    ("prose", "bits_per_byte", "bits_per_byte"),
]
OF_MEANS = ("accuracy", "accuracy_by_character", "stereotype_preferred", "exact_match")


@pytest.fixture(scope="module")
def both(loaded, tmp_path_factory) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by task and name, of ours and of theirs."""
    folder: Path = tmp_path_factory.mktemp("tasks")
    model = TextModel(loaded)
    for name, lines in records(model).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(OURS[name] | {"data": f"{name}.jsonl"}))
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
                "test_split": "test", **THEIRS[name]}  # fmt: skip
        (folder / f"harness_{name}.yaml").write_text(yaml.safe_dump(task))
    ours = [run_task(load_task(str(folder / f"{name}.yaml")), TextModel(loaded, batch=5)).scores for name in OURS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        theirs = run_harness([str(folder / f"harness_{name}.yaml") for name in OURS], model)
    return {
        side: {result["task"]: {score["name"]: score for score in result["scores"]} for result in results}
        for side, results in (("ours", ours), ("theirs", theirs))
    }


@pytest.mark.parametrize(("task", "ours", "theirs"), SHARED)
def test_a_score_is_the_harness(both, task, ours, theirs):
    mine, other = both["ours"][task][ours], both["theirs"][task][theirs]
    assert mine["n"] == other["n"] == RECORDS
    if ours == "bits_per_byte":  # sums of other batches
        assert mine["value"] == pytest.approx(other["value"], rel=1e-6)
    else:
        assert mine["value"] == other["value"]
    limits = (0.02, 0.98) if ours in OF_MEANS else (0.0, 100.0)
    assert limits[0] < mine["value"] < limits[1], "the task says nothing"
    if ours in OF_MEANS:
        assert mine["standard_error"] == pytest.approx(other["standard_error"], rel=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: t\ndoc_to_text: !function os.system", "without functions"),
        ("task: t\ninclude: other.yaml", "without an `include`"),
        ("- t", "the name of its `task`"),
    ],
)
def test_a_harness_file_that_could_run_code_is_refused(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_task(path)


def test_the_templates_of_the_harness_reach_nothing_but_the_record(both):
    import jinja2.exceptions
    import lm_eval.utils

    with pytest.raises(jinja2.exceptions.SecurityError):
        lm_eval.utils.apply_template("{{ ''.__class__.__mro__ }}", {})


def test_a_task_that_the_harness_does_not_have_is_named(model):
    with pytest.raises(UserError, match="no task `no_such_task_of_ours`"):
        run_harness(["no_such_task_of_ours"], model)
