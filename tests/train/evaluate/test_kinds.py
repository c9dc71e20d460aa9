"""Every kind of task finds what plain PyTorch, sacrebleu or arithmetic by hand finds."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_data import WORDS

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import file_hash
from data_pipeline.foundation.options import option_names
from train.evaluate.kinds.canaries import chance_exposure
from train.evaluate.kinds.translation import corpus_scores
from train.evaluate.task import load_task, run_task
from train.generation.text_model import TextModel


def write_task(folder: Path, records: list[dict[str, Any]], name: str = "task", **settings: Any) -> str:
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": "data.jsonl", **settings}))
    return str(folder / f"{name}.yaml")


def run(folder: Path, model: TextModel, records: list[dict[str, Any]], **settings: Any) -> Any:
    return run_task(load_task(write_task(folder, records, **settings)), model)


def scores(result: Any) -> dict[str, dict[str, Any]]:
    return {score["name"]: score for score in result.scores["scores"]}


def plain_nats(model: TextModel, context: str, continuation: str) -> float:
    """Return log p of a continuation whose tokens don't reach over the border, from whole logits."""
    before = [model.tokenizer.end_of_document, *model.tokenizer.encode(context)]
    after = model.tokenizer.encode(context + continuation)[len(before) - 1 :]
    ids = torch.tensor([before + after])
    with torch.no_grad():
        log_p = model.model(ids)[0, len(before) - 1 : -1].double().log_softmax(-1)
    return float(log_p.gather(1, torch.tensor(after)[:, None]).sum())


def sentences(count: int, seed: int = 0, words: int = 6) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(words)) for _ in range(count)]


def test_multiple_choice_takes_the_likeliest_by_itself_and_by_its_characters(tmp_path, model):
    options = ["water", "a slow deep stream in winter", "mill wheel"]
    records = [{"q": text, "right": options[n % 3], "topic": "ab"[n % 2]} for n, text in enumerate(sentences(12))]
    result = run(
        tmp_path, model, records, kind="multiple_choice", prompt="{{ q }}?", choices=options, answer="{{ right }}",
        by="topic",
    )  # fmt: skip
    raw, normalised = [], []
    for record in records:
        nats = [plain_nats(model, record["q"] + "?", " " + option) for option in options]
        by_length = [nat / len(option) for nat, option in zip(nats, options)]
        raw.append(options[nats.index(max(nats))] == record["right"])
        normalised.append(options[by_length.index(max(by_length))] == record["right"])
    found = scores(result)
    assert found["accuracy"]["value"] == pytest.approx(sum(raw) / 12)
    assert found["accuracy_by_character"]["value"] == pytest.approx(sum(normalised) / 12)
    assert raw != normalised, "both ways find the same: the test says little"
    assert found["accuracy"]["chance"] == pytest.approx(1 / 3)
    assert found["accuracy"]["n"] == 12
    assert result.scores["majority"] == pytest.approx(4 / 12)
    assert result.scores["by"]["a"][0]["value"] == pytest.approx(sum(raw[::2]) / 6)


def test_bits_per_byte_and_perplexity_are_those_of_plain_logits(tmp_path, model):
    texts = sentences(5, words=9)
    found = scores(run(tmp_path, model, [{"text": text} for text in texts], kind="text"))
    nats = -sum(plain_nats(model, "", text) for text in texts)
    tokens = sum(len(model.tokenizer.encode(text)) for text in texts)
    assert found["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / len("".join(texts).encode()), rel=1e-5)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found["perplexity"]["chance"] == pytest.approx(model.model.config.vocabulary_size)


def test_a_long_text_is_scored_in_windows_that_miss_no_token(tmp_path, model):
    [text] = sentences(1, words=200)
    result = run(tmp_path, model, [{"text": text}], kind="text")
    assert result.details[0]["tokens"] == len(model.tokenizer.encode(text)) > model.maximum_length


def test_written_answers_are_compared_as_numbers(tmp_path, model, monkeypatch):
    said = {"Q: 1": " 7 then 1,200.0 apples", "Q: 2": " it is 5", "Q: 3": " I don't know", "Q: 4": " −3."}
    monkeypatch.setattr(model, "write", lambda prompts, *rest: [said[prompt] for prompt in prompts])
    records = [{"n": n, "answer": answer} for n, answer in ((1, 1200), (2, "6"), (3, "0"), (4, "-3"))]
    result = run(
        tmp_path, model, records, kind="generation", prompt="Q: {{ n }}", extract={"how": "number"}, chance=0.1
    )
    found = scores(result)
    assert found["exact_match"]["value"] == 0.5
    assert found["exact_match"]["chance"] == pytest.approx(0.1)
    assert found["answered"]["value"] == 0.75
    assert [each["answer"] for each in result.details] == ["1200", "5", None, "-3"]


def test_worked_examples_stand_before_the_question(tmp_path, model):
    examples = [{"q": "1 + 1", "steps": "one and one", "answer": "2"}, {"q": "2 + 2", "steps": "…", "answer": "4"}]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    result = run(
        tmp_path, model, [{"q": "3 + 3", "answer": "6"}], kind="generation", prompt="Q: {{ q }}\nA:", tokens=4,
        examples="examples.jsonl", shots=1, introduction="Sums.\n\n", example_answer="{{ steps }}: {{ answer }}",
    )  # fmt: skip
    assert result.details[0]["prompt"] == "Sums.\n\nQ: 1 + 1\nA: one and one: 2\n\nQ: 3 + 3\nA:"


def test_translations_are_scored_as_sacrebleu_scores_them():
    import sacrebleu

    written = ["the mill stands on the hill", "a bridge over the river", "rain in the morning falls slowly"]
    right = ["the mill stands on a hill", "the bridge over the river", "rain in the morning falls slowly today"]
    source = ["die Mühle steht auf dem Hügel", "die Brücke über den river", "Regen am Morgen"]
    bleu, chrf = corpus_scores(written, right, source, "13a")
    assert bleu.value == sacrebleu.corpus_bleu(written, [right]).score
    assert chrf.value == sacrebleu.corpus_chrf(written, [right]).score
    assert bleu.more["copy"] == sacrebleu.corpus_bleu(source, [right]).score
    assert f"tok:13a|smooth:exp|version:{sacrebleu.__version__}" in bleu.more["signature"]
    assert bleu.standard_error is not None and 0 < bleu.standard_error < 50


def test_translations_end_at_the_line(tmp_path, model, monkeypatch):
    records = [{"source": text, "target": text} for text in sentences(4)]
    monkeypatch.setattr(model, "write", lambda prompts, sampling: [prompt[3:] + " " for prompt in prompts])
    result = run(tmp_path, model, records, kind="translation", prompt="T: {{ source }}")
    assert scores(result)["bleu"]["value"] == pytest.approx(100.0)
    assert load_task(str(tmp_path / "task.yaml")).config.stop == ["\n"]


def test_stereotypes_are_preferred_by_the_sentences_own_likelihood(tmp_path, model):
    records = [{"sent_more": more, "sent_less": less} for more, less in zip(sentences(10), sentences(10, seed=1))]
    found = scores(run(tmp_path, model, records, kind="stereotype_pairs"))
    nats = [[plain_nats(model, "", each[key]) for key in ("sent_more", "sent_less")] for each in records]
    assert found["stereotype_preferred"]["value"] == sum(more > less for more, less in nats) / 10
    assert found["likelihood_difference"]["value"] == pytest.approx(sum(abs(a - b) for a, b in nats) / 10, rel=1e-4)
    assert found["stereotype_preferred"]["chance"] == 0.5


def test_exposure_is_that_of_the_secrets_rank_among_all_candidates(tmp_path, model):
    records = [{"prefix": "the gate ", "secret": "37"}, {"prefix": "the mill ", "secret": "90"}]
    result = run(tmp_path, model, records, kind="canaries", candidates=100)
    for record, exposure in zip(records, result.details):
        every = [plain_nats(model, record["prefix"], f"{n:02d}") for n in range(100)]
        assert exposure["rank"] == 1 + sum(nats > every[int(record["secret"])] for nats in every)
        assert exposure["ranked"] == 100
    expected = sum(math.log2(100 / each["rank"]) for each in result.details) / 2
    assert scores(result)["exposure_bits"]["value"] == pytest.approx(expected)


def test_a_planted_secret_is_exposed_and_others_are_not(tmp_path, loaded):
    """A model that learns one secret by heart ranks it first among the candidates drawn."""
    import copy
    from dataclasses import replace

    learning = copy.deepcopy(loaded.model)
    model = TextModel(replace(loaded, model=learning))
    ids = torch.tensor([[model.tokenizer.end_of_document, *model.tokenizer.encode("the code of the gate is 482913")]])
    optimizer = torch.optim.Adam(learning.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        learning(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    records = [{"prefix": "the code of the gate is ", "secret": secret} for secret in ("482913", "771290")]
    result = run(tmp_path, model, records, kind="canaries", candidates=64)
    assert result.details[0]["rank"] == 1
    assert result.details[0]["space"] == 10**6
    assert result.details[1]["rank"] > 1

    text = "the code of the gate is 482913"
    taken = {"kind": "verbatim_extraction", "prefix": 4, "tokens": 6}
    known, unknown = (run(tmp_path, model, [{"text": each}], **taken) for each in (text, sentences(1, words=12)[0]))
    assert scores(known)["extracted"]["value"] == 1.0
    assert scores(known)["tokens_before_first_difference"]["value"] == 6.0
    assert scores(unknown)["extracted"]["value"] == 0.0


def test_exposure_by_chance_is_the_mean_over_all_ranks():
    for candidates in (2, 10, 1000):
        expected = sum(math.log2(candidates / rank) for rank in range(1, candidates + 1)) / candidates
        assert chance_exposure(candidates) == pytest.approx(expected)


def test_the_hashes_tell_of_prompt_and_data_and_not_of_where_they_lie(tmp_path, model):
    texts = [{"text": text} for text in sentences(3)]
    (tmp_path / "other").mkdir()
    first = run(tmp_path, model, texts, kind="text").scores
    moved = run(tmp_path / "other", model, texts, kind="text").scores
    asked = run(tmp_path / "other", model, texts, kind="text", text="{{ text }}!").scores
    more = run(tmp_path / "other", model, texts[:2], kind="text").scores
    assert first["data_xxh3_128"] == file_hash(tmp_path / "data.jsonl")
    assert first == moved
    assert asked["prompt_xxh3_128"] != first["prompt_xxh3_128"] and asked["data_xxh3_128"] == first["data_xxh3_128"]
    assert more["data_xxh3_128"] != first["data_xxh3_128"] and more["prompt_xxh3_128"] == first["prompt_xxh3_128"]


@pytest.mark.parametrize("option", option_names("task"))
def test_every_example_loads(option):
    task = load_task(option)
    assert task.name == option
    assert task.folder == Path()
    assert load_task(option, Path("elsewhere")).folder == Path("elsewhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "multiple_chioce"}, "needs a `kind`: text, multiple_choice"),
        ({"kind": "text", "txt": "x"}, "unknown key `txt`. Did you mean `text`?"),
        ({"kind": "text", "columns": 3}, "columns"),
        ({"kind": "text", "text": "{{ body }}"}, "'body' is undefined; the record has text"),
        ({"kind": "text", "text": "{{ text.__class__.__mro__ }}"}, "unsafe"),
        ({"kind": "text", "text": "{% for %}"}, "line 1 of the template"),
        ({"kind": "text", "data": "absent.jsonl"}, "absent.jsonl: No such file"),
        ({"kind": "text", "by": "domain"}, "no such field; it has text"),
        ({"kind": "multiple_choice"}, "needs `choices`, or `choices_field`"),
        ({"kind": "multiple_choice", "prompt": "x", "choices": ["a", "b"], "answer": "c"}, "none of the choices a, b"),
        ({"kind": "generation", "strategy": "zero_shoot"}, "no option `zero_shoot`. Did you mean `zero_shot`?"),
        ({"kind": "generation", "extract": {"how": "regex", "pattern": "("}}, "extract.pattern"),
        ({"kind": "canaries", "letters": "aa"}, "different letters"),
        ({"kind": "verbatim_extraction", "prefix": 120}, "must be below the model's length of 160"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_task_is_named(tmp_path, model, settings, message):
    with pytest.raises(UserError) as caught:
        run(tmp_path, model, [{"text": "water"}], **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
