"""A model of Transformers' becomes a checkpoint that computes the same, and goes back bit for bit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import ours, some_tokens, theirs, tokenizer_of_dataset

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import verify_checkpoint
from train.exchange.export import ExportConfig, export
from train.exchange.intake import VERB, ImportConfig, take_in
from train.exchange.passage import PASSAGE

SHAPE: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
KINDS: dict[str, Any] = {
    "llama": lambda **shape: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | shape)),
    "tied llama with biases": lambda **shape: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE | shape, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda **shape: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE | shape)),
    "mixtral": lambda **shape: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SHAPE | shape, num_local_experts=11, num_experts_per_tok=3, sliding_window=None)
    ),
    "qwen3": lambda **shape: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE | shape, head_dim=16)),
}


@pytest.fixture(scope="module")
def tokenizer(small_dataset: Path) -> Tokenizer:
    return tokenizer_of_dataset(small_dataset)


def save(folder: Path, kind: str, tokenizer: Tokenizer, shard: str = "10GB", **shape: Any) -> Path:
    """Save a model as Transformers does, every parameter drawn."""
    torch.manual_seed(4)
    model = KINDS[kind](vocab_size=tokenizer.vocabulary_size, **shape)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * (0.1 if parameter.dim() == 2 else 0.3) + (parameter.dim() == 1)
    model.save_pretrained(folder, max_shard_size=shard)
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return folder


def taken_in(source: Path, output: Path, **settings: Any) -> Path:
    take_in(ImportConfig(source=str(source), output=str(output), **settings))
    return output


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_our_model_computes_the_logits_of_transformers(tmp_path, tokenizer, kind):
    source = save(tmp_path / "theirs", kind, tokenizer, shard="50KB")
    checkpoint = taken_in(source, tmp_path / "checkpoint")
    assert verify_checkpoint(checkpoint) == []
    tokens = some_tokens(tokenizer.vocabulary_size)
    with torch.inference_mode():
        expected, found = theirs(source)(tokens).logits, ours(checkpoint)(tokens)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert load_tokenizer(checkpoint / "tokenizer").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_exported_again_the_weights_are_bitwise_the_same(tmp_path, tokenizer, kind):
    source = save(tmp_path / "theirs", kind, tokenizer)
    checkpoint = taken_in(source, tmp_path / "checkpoint", proof="own")
    back = tmp_path / "back"
    export(ExportConfig(source=str(checkpoint), output=str(back)))
    before, after = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    # The checkpoint has gone from one program to another and says so.
    lineage = json.loads((back / "headrace.json").read_text())["lineage"]
    assert lineage["of"]["imported"]["files"].keys() == {"config.json", "tokenizer.json", "model.safetensors"}


def test_bfloat16_comes_in_as_it_is(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    rounded = {name: values.bfloat16() for name, values in load_file(source / "model.safetensors").items()}
    save_file(rounded, source / "model.safetensors", {"format": "pt"})
    model = ours(taken_in(source, tmp_path / "checkpoint"))
    assert torch.equal(model.norm.weight, rounded["model.norm.weight"].float())


def test_pickled_weights_are_refused_by_name(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle, which can run code"):
        taken_in(source, tmp_path / "checkpoint")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle, which can run code"):
        taken_in(source / "pytorch_model.bin", tmp_path / "checkpoint")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "pytorch_model.bin"])
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, tokenizer, name):
    source = save(tmp_path / "theirs", "llama", tokenizer, shard="50KB")
    index = source / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    (tmp_path / "outside.safetensors").write_bytes((source / files["lm_head.weight"]).read_bytes())
    edit(index, weight_map=files | {"lm_head.weight": name})
    with pytest.raises(UserError, match="which is no safetensors file in its folder"):
        taken_in(source, tmp_path / "checkpoint")


def test_a_link_out_of_the_folder_is_refused_but_not_that_of_the_hubs_cache(tmp_path, tokenizer):
    source = save(tmp_path / "hub" / "snapshots" / "abc", "llama", tokenizer)
    weights, blobs = source / "model.safetensors", tmp_path / "hub" / "blobs"
    blobs.mkdir()
    weights.rename(blobs / "1234")
    weights.symlink_to("../../blobs/1234")
    taken_in(source, tmp_path / "checkpoint", proof="own")
    weights.unlink()
    (blobs / "1234").rename(tmp_path / "elsewhere")
    weights.symlink_to("../../../elsewhere")
    with pytest.raises(UserError, match="is a link that leads out of the folder"):
        taken_in(source, tmp_path / "other")


def test_an_index_that_contradicts_its_files_is_refused(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer, shard="50KB")
    index = source / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=files | {"model.norm.weight": files["model.embed_tokens.weight"]})
    with pytest.raises(Failure, match=r"disagree on model\.norm\.weight"):
        taken_in(source, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "a model of type 'gpt2'; what can be taken in is llama, qwen2, qwen3"),
        ({"auto_map": {"AutoModel": "code.Model"}}, r"wants code of its own to be run \(auto_map\)"),
        ({"hidden_act": "gelu"}, "has hidden_act='gelu'; our model computes 'silu' alone"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "has rope_scaling='llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "has rope_scaling='linear'"),
        ({"quantization_config": {"bits": 4}}, "has quantization_config="),
        ({"intermediate_size": 96}, r"mlp.* is \(.*\), its configuration makes it"),
        ({"num_hidden_layers": 3}, r"lacks model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"has model\.layers\.1\..*, which its architecture doesn't have"),
        ({"tie_word_embeddings": True}, r"lm_head\.weight is another matrix than model\.embed_tokens\.weight"),
        ({"eos_token_id": 5}, r"the tokenizer ends with token 0 .*, the configuration says 5"),
    ],
)
def test_what_our_model_does_not_compute_is_refused_by_name(tmp_path, tokenizer, changes, message):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    edit(source / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        taken_in(source, tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_another_models_tokenizer_is_refused(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    for name, content in train_tokenizer([PASSAGE * 3], BpeConfig(400)).files().items():
        (source / name).write_bytes(content)
    with pytest.raises(UserError, match="the tokenizer is another model's: it has 400 tokens, the model 320"):
        taken_in(source, tmp_path / "checkpoint")


def test_truncated_weights_are_refused(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(Failure, match=r"model\.safetensors can't be read"):
        taken_in(source, tmp_path / "checkpoint")


def test_weights_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path, tokenizer):
    source = save(tmp_path / "theirs", "llama", tokenizer)
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(Failure, match="the proof failed"):
        taken_in(source, tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_the_command_takes_in_and_says_what_was_proven(tmp_path, tokenizer, capsys):
    source = save(tmp_path / "theirs", "qwen3", tokenizer)
    output = tmp_path / "checkpoint"
    assert VERB.main([f"source={source}", f"output={output}"]) == 0
    assert "read by Transformers" in capsys.readouterr().out
    assert VERB.main([f"source={source}", f"output={output}"]) == 2
    assert VERB.main([f"source={tmp_path / 'nowhere'}", f"output={tmp_path / 'other'}"]) == 2
