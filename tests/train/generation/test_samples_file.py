"""A model's answers become samples: right ones alone where that is asked for, the same bytes whatever interrupts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.readers.samples import SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.strategy import load_strategy
from train.generation.samples_file import write_samples_file
from train.generation.settings import GenerateConfig, check_generate
from train.generation.text_model import TextModel
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.sampling import SamplingConfig, sample_tokens
from train.source import Loaded

ASKED = [{"prompt": f"{word} ", "answer": "[^e]*", "note": 1} for word in ("water", "river", "mill", "stone", "field")]


@pytest.fixture(scope="module")
def loaded(small_dataset: Path) -> Loaded:
    tokenizer = load_tokenizer(small_dataset / "tokenizer")
    config = TransformerConfig(width=32, layers=2, heads=4, key_value_heads=2, hidden_width=48, maximum_length=48)
    model = Transformer(config.resolve(tokenizer.vocabulary_size))
    initialise_weights(model, model.config, 0)
    # Letters alone, some of them joined, and the end: whatever is written is a text.
    never = [
        token
        for token in range(model.config.vocabulary_size)
        if token >= tokenizer.vocabulary_size
        or (token != tokenizer.end_of_document and not tokenizer.decode([token]).strip().isalpha())
    ]
    model.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(never), -1e9))
    return Loaded(model.eval(), tokenizer, small_dataset, None, 48, 0)


def settings(folder: Path, records: list[dict[str, Any]] = ASKED, name: str = "out", **more: Any) -> GenerateConfig:
    (folder / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    config = GenerateConfig(source="x", tokens=6, temperature=1.0, top_p=1.0, prompts=str(folder / "asked.jsonl"))
    config = replace(config, output=str(folder / f"{name}.jsonl"), at_once=2, count=4, **more)
    check_generate(config)
    return config


def samples(config: GenerateConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(config.output)).read_text().splitlines()]


def test_all_that_is_kept_is_what_sampling_writes_by_the_seed_that_it_names(tmp_path, loaded):
    config = settings(tmp_path)
    written = write_samples_file(config, loaded)
    assert (written.prompts, written.texts, written.kept) == (5, 20, len(samples(config)))
    for sample in samples(config):
        sampling = SamplingConfig(6, 1.0, top_p=1.0, seed=sample["made_by"]["seed"])
        prompt = loaded.tokenizer.encode(sample["prompt"])
        ids = list(
            sample_tokens(loaded.model, loaded.model.config, prompt, sampling, torch.device("cpu"), torch.float32)
        )
        end = loaded.tokenizer.end_of_document
        assert sample["completion"] == loaded.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
        assert sample["answer"] == "[^e]*" and len(sample["made_by"]["checkpoint"]) == 32


def test_what_is_kept_has_the_right_answer_once_and_is_tuned_on(tmp_path, loaded):
    all_of_it, right = settings(tmp_path, name="all"), settings(tmp_path, keep="verified", verifier="pattern")
    for config in (all_of_it, right):
        write_samples_file(config, loaded)
    kept = [(each["prompt"], each["completion"]) for each in samples(right)]
    assert kept == [
        (a, b) for a, b in ((s["prompt"], s["completion"]) for s in samples(all_of_it)) if "e" not in b.strip()
    ]
    assert len(set(kept)) == len(kept) and 0 < len(kept) < 20
    corpus = SamplesConfig([str(right.output)])
    manifest = prepare(
        PrepareConfig(str(tmp_path / "d"), corpus, tokenizer=BpeConfig(300), workers=1, validation_fraction=0.3)
    )
    assert manifest.samples == "answers"


def test_what_was_interrupted_goes_on_to_the_same_bytes(tmp_path, loaded, monkeypatch):
    whole, broken = settings(tmp_path, name="whole"), settings(tmp_path)
    write_samples_file(whole, loaded)
    write, calls = TextModel.write, []

    def interrupted(self, prompts, *more):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, prompts, *more)

    monkeypatch.setattr(TextModel, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_samples_file(broken, loaded)
    assert not Path(str(broken.output)).exists()
    with open(f"{broken.output}.partial", "a") as file:
        file.write('{"prompt": "torn')
    with pytest.raises(UserError, match="was begun with other settings"):
        write_samples_file(replace(broken, seed=3), loaded)
    write_samples_file(broken, loaded)
    assert Path(str(broken.output)).read_bytes() == Path(str(whole.output)).read_bytes()
    assert calls == [8, 8, 8, 4]
    assert not list(tmp_path.glob("*.partial*"))
    with pytest.raises(UserError, match="exists already"):
        write_samples_file(broken, loaded)


def scripted(monkeypatch, script: dict[str, list[str]]) -> None:
    monkeypatch.setattr(TextModel, "write", lambda self, prompts, *_: [script[prompt].pop(0) for prompt in prompts])


SUMS = [{"prompt": "2+3=", "answer": 5}, {"prompt": "7+5=", "answer": 12}, {"prompt": "1+1=", "answer": 2}]


def test_what_was_not_solved_is_asked_again_with_a_hint_that_the_sample_leaves_out(tmp_path, loaded, monkeypatch):
    """STaR's rationalisation."""
    told = "{{ prompt }} ({{ answer }})"
    script = {"2+3=": ["so 5", "so 6"], "7+5=": ["so 13", "so 2"], "7+5= (12)": ["7+3+2, so 12", "12"]}
    scripted(monkeypatch, script | {"1+1=": ["0", "1"], "1+1= (2)": ["3", "4"]})
    config = settings(tmp_path, SUMS, keep="verified", hint=told, extract=ExtractConfig("number"))
    written = write_samples_file(replace(config, count=2), loaded)
    found = [(each["prompt"], each["completion"], "hinted" in each["made_by"]) for each in samples(config)]
    assert found == [("2+3=", "so 5", False), ("7+5=", "7+3+2, so 12", True), ("7+5=", "12", True)]
    assert (written.solved, written.hinted) == (2, 1)


def test_a_strategy_asks_and_its_answer_is_checked(tmp_path, loaded, monkeypatch):
    asked = "Q: 7+5=\nA: Let's think step by step."
    script = {asked: ["7 and 3 and 2"], f"{asked}7 and 3 and 2\nTherefore, the answer is": [" 12."]}
    scripted(monkeypatch, script)
    monkeypatch.setattr(
        TextModel, "write_greedily", lambda self, prompts, *_: [script[each].pop(0) for each in prompts]
    )
    strategy, number = load_strategy("zero_shot"), ExtractConfig("number", which="first")
    config = replace(settings(tmp_path, SUMS[1:2], keep="verified", extract=number), strategy=strategy, count=1)
    write_samples_file(config, loaded)
    [sample] = samples(config)
    assert sample["completion"] == "7 and 3 and 2\nTherefore, the answer is 12."
    assert sample["made_by"]["strategy"]["trigger"] == " Let's think step by step."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keep": "some"}, "there are all, verified"),
        ({"keep": "verified", "verifier": "program"}, "verifier=program: there are answer"),
        ({"output": None}, "belong together"),
        ({"temperature": 0.0}, "count=4 needs temperature above 0"),
        ({"hint": "x"}, "keep=verified"),
        ({"prompt": "x"}, "exclude each other"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        check_generate(replace(settings(tmp_path), **changed))


def test_a_prompt_without_what_is_needed_is_named_and_nothing_right_is_a_failure(tmp_path, loaded):
    lacking = settings(tmp_path, [*ASKED, {"prompt": "x"}], keep="verified", verifier="pattern")
    with pytest.raises(UserError, match="record 6 has no `answer`, which keep=verified checks against"):
        write_samples_file(lacking, loaded)
    never = settings(tmp_path, [{"prompt": "x", "answer": "never"}], keep="verified")
    with pytest.raises(Failure, match="none of the answers to 1 prompts was accepted"):
        write_samples_file(never, loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]
