"""GGUF files hold what Transformers reads in them too, and come back as the checkpoint that they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from small_models import SHAPES, SMALL, make_checkpoint, ours, some_tokens, theirs, tokenizer_of_dataset
from tokenizers import Regex, decoders, models, pre_tokenizers

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.exchange import gguf_export
from train.exchange.export import ExportConfig, export
from train.exchange.gguf_file import interleave, separate
from train.exchange.gguf_tokenizer import tokenizer_of, vocabulary_of
from train.exchange.intake import ImportConfig, take_in
from train.exchange.passage import PASSAGE

WIDE = replace(SMALL, width=64, hidden_width=96)
BIASED = ("all biases", "query-key norm and biases")


@pytest.fixture(scope="module")
def tokenizer(small_dataset: Path) -> Tokenizer:
    return tokenizer_of_dataset(small_dataset)


def gguf_of(checkpoint: Path, output: Path, dtype: str = "float32") -> Path:
    export(ExportConfig(source=str(checkpoint), output=str(output), format="gguf", dtype=dtype))
    return output


READABLE = {name: shape for name, shape in SHAPES.items() if name not in BIASED} | {
    "query-key norm": replace(SHAPES["query-key norm"], head_width=128)
}
"""Shapes that Transformers reads in a GGUF file: it drops Llama's biases, and takes a head of Qwen3 to be 128 wide."""


@pytest.mark.parametrize("shape", READABLE)
def test_transformers_reads_the_model_that_was_written(tmp_path, tokenizer, shape):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", READABLE[shape], tokenizer)
    file = gguf_of(checkpoint, tmp_path / "model.gguf")
    tokens = some_tokens(320)
    with torch.inference_mode():
        expected, found = ours(checkpoint)(tokens), theirs(tmp_path, gguf_file=file.name)(tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_taken_in_again_the_weights_are_bitwise_the_same(tmp_path, tokenizer, shape):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SHAPES[shape], tokenizer)
    back = tmp_path / "back"
    file = gguf_of(checkpoint, tmp_path / "model.gguf")
    record = take_in(ImportConfig(source=str(file), output=str(back), proof="own"))
    before, after = ours(checkpoint), ours(back)
    assert replace(after.config, name="custom") == before.config
    assert all(torch.equal(values, after.state_dict()[name]) for name, values in before.state_dict().items())
    assert record["imported"]["lineage"]["of"] == {"run": "drawn"}


@pytest.mark.parametrize(("dtype", "kind", "closeness"), [("float16", "F16", 1e-3), ("q8_0", "Q8_0", 1 / 127)])
def test_lower_precisions_are_stored_as_such_and_close(tmp_path, tokenizer, dtype, kind, closeness):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", WIDE, tokenizer)
    file = gguf_of(checkpoint, tmp_path / "model.gguf", dtype)
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert kinds["blk.1.ffn_down.weight"] == kinds["token_embd.weight"] == GGMLQuantizationType[kind]
    assert kinds["output_norm.weight"] == GGMLQuantizationType.F32
    take_in(ImportConfig(source=str(file), output=str(tmp_path / "back")))
    before, after = ours(checkpoint).state_dict(), ours(tmp_path / "back").state_dict()
    for name, values in before.items():
        assert (values - after[name]).abs().max() <= closeness * values.abs().max()


def test_rows_that_cannot_be_cut_into_blocks_stay_float16(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(gguf_of(checkpoint, tmp_path / "m.gguf", "q8_0")).tensors}
    assert kinds["blk.0.ffn_up.weight"] == "F16"


def test_the_rows_of_a_head_change_places_in_pairs_and_back():
    rows = torch.arange(16.0).unsqueeze(1)
    assert interleave(rows, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(separate(interleave(rows, 2), 2), rows)


@pytest.mark.parametrize(("digits", "cut"), [("threes", "dbrx"), ("single", "qwen2")])
def test_tokenizer_and_template_come_back(tmp_path, digits, cut):
    tokenizer = train_tokenizer([PASSAGE] * 2, BpeConfig(400, digits=digits, chat=True))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    take_in(ImportConfig(str(gguf_of(checkpoint, tmp_path / "m.gguf")), str(tmp_path / "back"), proof="own"))
    back = load_tokenizer(tmp_path / "back" / "tokenizer")
    assert vocabulary_of(tokenizer, 448).cut == cut
    for text in (PASSAGE, "12345678 <|im_end|> x", "   \n\n \t y'LL", ""):
        assert back.encode(text) == tokenizer.encode(text)
        assert back.decode(tokenizer.encode(text)) == text
        assert back.encode_markup(text) == tokenizer.encode_markup(text)
    assert back.chat_template == tokenizer.chat_template
    assert (back.end_of_document, back.vocabulary_size) == (tokenizer.end_of_document, tokenizer.vocabulary_size)


def bpe(steps: list, ignore_merges: bool = False) -> Tokenizer:
    trained = json.loads(train_tokenizer([PASSAGE], BpeConfig(400)).backend.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    backend = tokenizers.Tokenizer(models.BPE(trained["vocab"], merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend, "<|endoftext|>")


def test_the_ways_of_gpt2_and_smollm_to_cut_are_known_by_name():
    plain, digits = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(individual_digits=True)
    for steps, name in (([plain], "gpt-2"), ([digits, plain], "smollm")):
        tokenizer = bpe(steps)
        vocabulary = vocabulary_of(tokenizer, 400)
        assert vocabulary.cut == name
        assert tokenizer_of(vocabulary, "here").encode(PASSAGE) == tokenizer.encode(PASSAGE)


def test_a_way_to_cut_that_llama_cpp_has_no_name_for_is_refused():
    split = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")
    own = bpe([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    together = train_tokenizer([PASSAGE], BpeConfig(400, digits="together"))
    for tokenizer in (own, together):
        with pytest.raises(UserError, match="in a way that llama.cpp has no name for .*: use format=hf"):  # noqa: RUF043
            vocabulary_of(tokenizer, 400)
    with pytest.raises(UserError, match="cuts text in the way 'tekken'; known are gpt-2"):
        tokenizer_of(replace(vocabulary_of(train_tokenizer([PASSAGE], BpeConfig(400)), 400), cut="tekken"), "here")


def test_a_file_that_was_changed_on_the_way_is_refused_and_not_left(tmp_path, tokenizer, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    monkeypatch.setattr("train.exchange.gguf_file.interleave", lambda values, heads: values)
    with pytest.raises(Failure, match="the proof failed: logits differ"):
        gguf_of(checkpoint, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_tokenizer_that_cuts_differently_is_refused_and_not_left(tmp_path, monkeypatch):
    tokenizer = train_tokenizer([PASSAGE] * 4, BpeConfig(800))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    right = vocabulary_of(tokenizer, 832)
    monkeypatch.setattr(gguf_export, "vocabulary_of", lambda *_: replace(right, cut="gpt-2"))
    with pytest.raises(Failure, match=r"the proof failed: the tokenizers cut .* differently"):
        gguf_of(checkpoint, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("damage", ["header", "length", "magic"])
def test_a_damaged_file_is_refused(tmp_path, tokenizer, damage):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    file = gguf_of(checkpoint, tmp_path / "model.gguf")
    data = bytearray(file.read_bytes())
    if damage == "header":
        data[24] ^= 0xFF
    elif damage == "length":
        del data[-5000:]
    else:
        data[0] = 0
    file.write_bytes(data)
    with pytest.raises(Failure, match="can't be read"):
        take_in(ImportConfig(str(file), str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


def test_where_transformers_cannot_read_a_file_the_message_names_the_other_proof(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SHAPES["query-key norm"], tokenizer)
    file = gguf_of(checkpoint, tmp_path / "model.gguf")
    with pytest.raises(Failure, match=r"Transformers can't read .*model\.gguf .*proof=own"):
        take_in(ImportConfig(str(file), str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


def test_another_architecture_is_refused_by_name(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "gpt2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="the architecture 'gpt2'; what can be taken in is llama, qwen2, qwen3"):
        take_in(ImportConfig(str(tmp_path / "m.gguf"), str(tmp_path / "back")))
