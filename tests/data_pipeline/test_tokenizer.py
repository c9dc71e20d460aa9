import json
import subprocess
import sys

import pytest
from generated_corpus import configuration, generated_texts, prepare_texts, write_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.encoding import EncodersDifferError, FastEncoder, why_not_fast
from data_pipeline.foundation.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.prepare import prepare
from data_pipeline.tokenizer import load_tokenizer, train_tokenizer

TEXTS = generated_texts(200)
TOKENIZER = train_tokenizer(TEXTS, 400)


def test_training_is_a_function_of_the_text():
    assert train_tokenizer(TEXTS, 400).fingerprint == TOKENIZER.fingerprint
    assert train_tokenizer(TEXTS[:-100], 400).fingerprint != TOKENIZER.fingerprint


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_every_text_survives_and_both_encoders_agree(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.end_of_document not in TOKENIZER.encode(text + "<|endoftext|>")
    FastEncoder(TOKENIZER).compare(text + "<|endoftext|>")


def test_digits_are_grouped_by_three_at_most():
    assert max(len(token.lstrip("Ġ")) for token in TOKENIZER.backend.get_vocab() if token.lstrip("Ġ").isdigit()) <= 3


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
