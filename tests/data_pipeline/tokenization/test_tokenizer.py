import json
import subprocess
import sys

import pytest
from generated_corpus import configuration, generated_texts, prepare_texts, write_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.foundation.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.prepare import prepare
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.encoding import EncodersDifferError, FastEncoder, why_not_fast
from data_pipeline.tokenization.tokenizer import load_tokenizer

TEXTS = generated_texts(200)
TOKENIZER = train_tokenizer(TEXTS, BpeConfig(400))


def test_training_is_a_function_of_the_text():
    assert train_tokenizer(TEXTS, BpeConfig(400)).fingerprint == TOKENIZER.fingerprint
    assert train_tokenizer(TEXTS[:-100], BpeConfig(400)).fingerprint != TOKENIZER.fingerprint


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_every_text_survives_and_both_encoders_agree(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.end_of_document not in TOKENIZER.encode(text + "<|endoftext|>")
    FastEncoder(TOKENIZER).compare(text + "<|endoftext|>")


@pytest.mark.parametrize(("digits", "longest"), [("threes", 3), ("single", 1), ("together", 6)])
def test_digits_are_grouped_as_asked(digits, longest):
    tokenizer = train_tokenizer(["in 123456 and 123456 or 123456"] * 50, BpeConfig(300, digits=digits))
    numbers = [token.lstrip("Ġ") for token in tokenizer.backend.get_vocab() if token.lstrip("Ġ").isdigit()]
    assert max(map(len, numbers)) == longest
    assert tokenizer.decode(tokenizer.encode("7 0123456789")) == "7 0123456789"


def test_special_and_chat_tokens_are_tokens_that_no_text_gives():
    config = BpeConfig(400, chat=True, special_tokens=["<|tool|>", "<|pad|>"])
    tokenizer = train_tokenizer(TEXTS, config)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>", "<|pad|>"]
    assert [tokenizer.backend.token_to_id(name) for name in names] == [0, 1, 2, 3, 4]
    assert tokenizer.vocabulary_size == 400
    for name in names:
        assert min(tokenizer.encode(f"a {name} b")) > 4
        assert tokenizer.decode(tokenizer.encode(f"a {name} b")) == f"a {name} b"


def test_the_chat_template_puts_each_message_between_its_tokens(tmp_path):
    from transformers import AutoTokenizer

    train_tokenizer(TEXTS, BpeConfig(400, chat=True)).save(tmp_path / "t")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "t")
    messages = [{"role": "user", "content": "How deep is the river?"}, {"role": "assistant", "content": "Two metres."}]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHow deep is the river?<|im_end|>\n<|im_start|>assistant\nTwo metres.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    start, end = (theirs.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>"))
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert (ids.count(start), ids.count(end)) == (3, 2)
    assert load_tokenizer(tmp_path / "t").chat_template == theirs.chat_template


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 256}, "bytes and special tokens alone take 257"),
        ({"vocabulary_size": 258, "chat": True}, "bytes and special tokens alone take 259"),
        ({"training_bytes": 5}, "training_bytes=5 must be at least"),
        ({"digits": "pairs"}, "digits=pairs: there are threes, single, together"),
        ({"special_tokens": ["a", "a"]}, "not all different"),
        ({"special_tokens": [""]}, "one is empty"),
        ({"special_tokens": ["<|endoftext|>"]}, "not all different"),
    ],
)
def test_unusable_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        BpeConfig(**settings).check()


def test_transformers_loads_it_and_gives_the_same_ids(tmp_path):
    from transformers import AutoTokenizer

    folder, manifest = prepare_texts(tmp_path, TEXTS)
    theirs, ours = AutoTokenizer.from_pretrained(folder / "tokenizer"), load_tokenizer(folder / "tokenizer")
    assert theirs.eos_token_id == ours.end_of_document == manifest.end_of_document
    assert len(theirs) == ours.vocabulary_size == manifest.vocabulary_size
    for text in TEXTS[:20]:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)) == text


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.fingerprint == load_tokenizer(tmp_path / "t" / "tokenizer.json").fingerprint == TOKENIZER.fingerprint


def test_a_ready_tokenizer_is_taken_with_its_own_end_of_document(tmp_path):
    backend = json.loads(TOKENIZER.backend.to_str().replace("<|endoftext|>", "[STOP]"))
    (tmp_path / "their.json").write_text(json.dumps(backend))
    with pytest.raises(UserError, match=r"tokenizer\.end_of_document=…: \[STOP\]"):
        load_tokenizer(tmp_path / "their.json")
    with pytest.raises(UserError, match=r"has no token \[HALT\]"):
        load_tokenizer(tmp_path / "their.json", "[HALT]")
    chosen = ["tokenizer=file", f"tokenizer.path='{tmp_path / 'their.json'}'", "tokenizer.end_of_document='[STOP]'"]
    corpus, output = write_json_lines(tmp_path / "corpus.jsonl", TEXTS), tmp_path / "dataset"
    paths = ["corpus=files", f"corpus.paths=['{corpus}']", f"output={output}", "validation_fraction=0.1", "workers=1"]
    prepare(configuration(*paths, *chosen))
    assert load_tokenizer(output / "tokenizer").end_of_document_name == "[STOP]"
    assert load_manifest(output).settings["tokenizer"]["end_of_document"] == "[STOP]"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Pickle"}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"not a Hugging Face tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "none")


def test_the_fast_encoder_is_not_used_where_it_differs(monkeypatch):
    assert why_not_fast(TOKENIZER, TEXTS) is None
    honest = FastEncoder._encode
    monkeypatch.setattr(FastEncoder, "_encode", lambda self, texts: [ids[:-1] for ids in honest(self, texts)])
    assert "other ids for 'Text 0" in why_not_fast(TOKENIZER, TEXTS)
    with pytest.raises(EncodersDifferError):
        FastEncoder(TOKENIZER).encode(TEXTS)


def test_no_torch_is_imported_for_tokens():
    program = "import sys, data_pipeline.prepare, data_pipeline.verify; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
