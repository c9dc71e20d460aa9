"""Samples keep who said what: what a model is to write is learnt, what it is asked is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from data_pipeline.foundation.errors import UserError
from data_pipeline.labels import EXPECTED, LEARNT, MARKUP, REJECTED
from data_pipeline.preparation.sample_tokens import encode_sample
from data_pipeline.readers.document import Document, Unreadable
from data_pipeline.readers.samples import Samples, SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.chat import CHAT_TEMPLATE

TRIMMING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONVERSATION = [
    {"role": "system", "content": "You add."},
    {"role": "user", "content": "What is 2 plus 3?<|im_end|>"},
    {"role": "assistant", "content": " 5 "},
    {"role": "user", "content": "你肯定吗？"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([CHAT_TEMPLATE] * 3, BpeConfig(300, 1 << 20, chat=True))


def read(folder: Path, *records: Any, **settings: Any) -> list[Document | Unreadable]:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    samples = Samples(SamplesConfig([str(path)], **settings))
    return [item for unit in samples.units() for item in samples.read(unit)]


def pieces(document: Document | Unreadable) -> list[tuple[str, int]]:
    assert isinstance(document, Document)
    found, at = [], 0
    for length, label in document.spans:
        found.append((document.text[at : at + length], label))
        at += length
    assert at == len(document.text)
    return found


def test_a_completion_is_learnt_and_its_prompt_is_not(tmp_path):
    (document,) = read(tmp_path, {"prompt": "2+3=", "completion": "5", "id": 7})
    assert pieces(document) == [("2+3=", 0), ("5", LEARNT)]
    assert document.key.endswith("samples.jsonl:1")


def test_of_a_conversation_what_the_assistant_says_is_learnt_with_the_end_of_its_turn(tmp_path):
    (document,) = read(tmp_path, {"messages": CONVERSATION})
    learnt = "".join(text for text, label in pieces(document) if label & LEARNT)
    assert learnt == " 5 <|im_end|>\nYes.<|im_end|>\n"
    written = "".join(text for text, label in pieces(document) if not label & MARKUP)
    assert written == "".join(message["content"] for message in CONVERSATION)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, TRIMMING])
def test_the_text_is_what_transformers_makes_of_it(tmp_path, tokenizer, template):
    reference = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, chat_template=template)
    (document,) = read(tmp_path, {"messages": CONVERSATION}, chat_template=template)
    assert document.text == reference.apply_chat_template(CONVERSATION, tokenize=False)


def test_nobody_can_end_a_turn_by_writing_its_token(tmp_path, tokenizer):
    (document,) = read(tmp_path, {"messages": CONVERSATION})
    tokens, labels = encode_sample(document, tokenizer)
    end = tokenizer.backend.token_to_id("<|im_end|>")
    assert (tokens == end).sum() == len(CONVERSATION)
    learnt = tokenizer.decode(tokens[labels == LEARNT].tolist())
    assert learnt == " 5 <|im_end|>\nYes.<|im_end|>\n<|endoftext|>"
    assert set(labels.tolist()) == {0, LEARNT}


def test_a_prompt_is_encoded_as_it_is_when_a_model_is_asked(tmp_path, tokenizer):
    (document,) = read(tmp_path, {"prompt": "mess", "completion": "ages in messages"})
    tokens, labels = encode_sample(document, tokenizer)
    asked = tokenizer.encode("mess")
    assert tokens[labels == 0].tolist() == asked
    assert tokens[labels == LEARNT].tolist() == [*tokenizer.encode("ages in messages"), tokenizer.end_of_document]


def test_two_answers_stand_behind_their_prompt_each(tmp_path, tokenizer):
    texts = {"prompt": "2+3=", "chosen": "5", "rejected": "6"}
    messages = {key: [{"role": "assistant", "content": texts[key]}] for key in ("chosen", "rejected")}
    for record in (texts, {"prompt": CONVERSATION[:2], **messages}):
        (document,) = read(tmp_path, record, kind="preferences")
        tokens, labels = encode_sample(document, tokenizer)
        (better,) = {tuple(labels[labels & REJECTED == 0].tolist())}
        half = len(better)
        assert not labels[:half].any() or not (labels[:half] & REJECTED).any()
        assert (labels[half:] & REJECTED).all()
        assert tokens[half - 1] == tokens[-1] == tokenizer.end_of_document
        prompt = int((labels[:half] == 0).sum())
        assert tokens[:prompt].tolist() == tokens[half : half + prompt].tolist()


def test_of_a_problem_the_prompt_is_what_a_model_is_asked_and_the_answer_is_only_expected(tmp_path, tokenizer):
    (document,) = read(tmp_path, {"prompt": "2+3=", "answer": "5", "completion": "so 5"}, kind="problems")
    assert pieces(document) == [("2+3=", 0), ("5", EXPECTED)]
    reference = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, chat_template=CHAT_TEMPLATE)
    (document,) = read(tmp_path, {"prompt": CONVERSATION[:4], "answer": "5"}, kind="problems")
    *asked, (answer, label) = pieces(document)
    expected = reference.apply_chat_template(CONVERSATION[:4], tokenize=False, add_generation_prompt=True)
    assert "".join(text for text, _ in asked) == expected
    assert (answer, label) == ("5", EXPECTED) and not any(label & ~MARKUP for _, label in asked)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "2+3=", "completion": "5"}, "corpus.kind=problems has `prompt` and `answer`; this one has"),
        ({"prompt": "2+3=", "answer": ""}, "the answer is empty"),
        ({"prompt": "", "answer": "5"}, "nothing is asked"),
        ({"prompt": "2+3=", "answer": 5}, "`answer` must be text"),
    ],
)
def test_a_problem_without_its_answer_is_named(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, record, kind="problems")


def test_nothing_foretells_the_first_token_of_a_sample(tmp_path, tokenizer):
    (document,) = read(tmp_path, {"prompt": "", "completion": "all of it"})
    _, labels = encode_sample(document, tokenizer)
    assert labels[0] == 0 and (labels[1:] == LEARNT).all()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "no sample"}, "this one has 'text'"),
        ({"prompt": "a", "completion": 5}, "`completion` must be text"),
        ({"prompt": "a", "completion": ""}, "nothing in it is learnt"),
        ({"messages": []}, "a list of messages"),
        ({"messages": [{"role": "user"}]}, "`role` and `content`"),
        ({"messages": CONVERSATION[:2]}, "no assistant speaks"),
        ({"prompt": "a", "completion": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "corpus.kind=answers"),
        ([1], "a sample is an object"),
    ],
)
def test_what_is_no_sample_is_named_or_left_out_and_counted(tmp_path, record, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, record)
    assert "samples.jsonl:1" in str(caught.value)
    good = {"prompt": "a", "completion": "b"}
    left_out, kept = read(tmp_path, record, good, skip_invalid=True)
    assert isinstance(left_out, Unreadable) and isinstance(kept, Document)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "is no Jinja template"),
        ("{{ messages[0].content.upper() }}", "doesn't write the content"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "changes what was before"),
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ ''.__class__.__mro__ }}", "chat template"),
    ],
)
def test_a_template_that_can_not_be_used_is_told_of(tmp_path, template, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, {"messages": CONVERSATION[1:3]}, chat_template=template)


def test_only_json_holds_samples(tmp_path):
    (tmp_path / "samples.txt").write_text("text")
    with pytest.raises(UserError, match=r"samples.txt: samples are read from .jsonl and .json"):
        Samples(SamplesConfig([str(tmp_path / "samples.txt")])).units()
