"""An export loads in plain Transformers and computes the same; what can't be exported leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from small_models import (
    EXPERTS,
    SHAPES,
    SMALL,
    drawn_model,
    greedy,
    make_checkpoint,
    ours,
    some_tokens,
    theirs,
    tokenizer_of_dataset,
)
from transformers import AutoTokenizer, GenerationConfig

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.checkpoint.folder import verify_checkpoint
from train.exchange import hugging_face, proof
from train.exchange.export import VERB, ExportConfig, export
from train.exchange.new_checkpoint import write_new_checkpoint
from train.exchange.passage import PASSAGE
from train.verify import verify


@pytest.fixture(scope="module")
def tokenizer(small_dataset: Path) -> Tokenizer:
    return tokenizer_of_dataset(small_dataset)


def exported(checkpoint: Path, output: Path, **settings: Any) -> Path:
    export(ExportConfig(source=str(checkpoint), output=str(output), **settings))
    return output


@pytest.mark.parametrize("shape", [*SHAPES, "experts"])
def test_transformers_computes_the_same_logits_and_greedy_tokens(tmp_path, tokenizer, shape):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", (SHAPES | {"experts": EXPERTS})[shape], tokenizer)
    folder = exported(checkpoint, tmp_path / "export", shard_bytes=60_000)
    model, twin = ours(checkpoint), theirs(folder)
    tokens = some_tokens(model.config.vocabulary_size)
    with torch.inference_mode():
        expected, found = model(tokens), twin(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    prompt = tokens[0, :8].tolist()
    settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None}
    generated = twin.generate(torch.tensor([prompt]), **settings)[0].tolist()
    assert generated == greedy(model, prompt)


def test_experts_that_no_architecture_has_are_refused_by_name(tmp_path, tokenizer):
    shared = make_checkpoint(tmp_path / "shared", replace(EXPERTS, shared_width=32), tokenizer)
    with pytest.raises(UserError, match="Mixtral has no expert for all tokens"):
        exported(shared, tmp_path / "export")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", EXPERTS, tokenizer)
    with pytest.raises(UserError, match="format=gguf knows no experts, of which this model has 5"):
        exported(checkpoint, tmp_path / "export.gguf", format="gguf")


def test_shards_hold_each_tensor_once_and_no_more_bytes_than_asked_for(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    folder = exported(checkpoint, tmp_path / "export", shard_bytes=40_000, dtype="float16", proof="own")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found = {}
    for path in sorted(folder.glob("model-*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            assert file.metadata()["format"] == "pt"
            assert json.loads(file.metadata()["headrace"])["of"] == {"run": "drawn"}
        assert sum(values.nbytes for values in tensors.values()) <= 40_000 or len(tensors) == 1
        assert {index["weight_map"][name] for name in tensors} == {path.name}
        assert not found.keys() & tensors.keys()
        found |= tensors
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert found.keys() == index["weight_map"].keys() == set(theirs(folder).state_dict())
    assert {values.dtype for values in found.values()} == {torch.float16}
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in found.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_is_the_weights_rounded_and_its_cost_is_said(tmp_path, tokenizer, dtype):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    output = tmp_path / "export"
    record = export(ExportConfig(source=str(checkpoint), output=str(output), dtype=dtype))
    expected = ours(checkpoint).blocks[0].attention.query.weight.to(getattr(torch, dtype)).float()
    assert torch.equal(theirs(output).model.layers[0].self_attn.q_proj.weight, expected)
    assert json.loads((output / "config.json").read_text())["dtype"] == dtype
    assert 0 < record["proof"]["rounding_divergence"] < 0.1
    assert "nats per token" in (output / "README.md").read_text()


def test_tokenizer_template_and_ends_are_what_transformers_reads(tmp_path):
    tokenizer = train_tokenizer([PASSAGE], BpeConfig(400, chat=True))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    folder = exported(checkpoint, tmp_path / "export")
    read = AutoTokenizer.from_pretrained(folder)
    text = "Wheels turn, 東京 1234!\n\n\tso they do  🚣"
    assert read(text)["input_ids"] == tokenizer.encode(text)
    assert read.decode(tokenizer.encode(text)) == text
    messages = [{"role": "user", "content": "Turn?"}]
    expected = "<|im_start|>user\nTurn?<|im_end|>\n<|im_start|>assistant\n"
    assert read.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected
    ends = [tokenizer.end_of_document, tokenizer.backend.token_to_id("<|im_end|>")]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == ends


def test_the_card_names_lineage_and_the_figures_of_this_step_alone(tmp_path, tokenizer):
    run = tmp_path / "runs" / "mill"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("run: {name: mill}\n")
    make_checkpoint(run / "checkpoints" / "step-00000000", SMALL, tokenizer)
    (run / "summary.json").write_text(json.dumps({"steps": 0, "bits_per_byte": 1.2345, "loss": 3.0}))
    (run / "evaluation.json").write_text(json.dumps({"step": 7, "perplexity": 98.7654}))
    folder = exported(run, tmp_path / "export", proof="own")
    card, record = (folder / "README.md").read_text(), json.loads((folder / "headrace.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\n") and "# mill\n" in card
    assert "| bits per byte | 1.2345 |" in card and "98.7654" not in card
    assert record["lineage"]["checkpoint"] == "step-00000000"
    assert record["lineage"]["manifest"] in card
    assert {path.name for path in folder.iterdir()} == {*record["files"], "headrace.json"}


def test_the_export_of_a_model_that_was_changed_on_the_way_is_refused(tmp_path, tokenizer, monkeypatch):
    """The one way to see that the proof can fail: a tensor is written that is not the checkpoint's."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    write = hugging_face.write_shards

    def with_a_fault(folder, shards, dtype, read, *others):
        def faulty(name):
            return read(name) * (1.01 if name == "model.layers.1.self_attn.k_proj.weight" else 1.0)

        return write(folder, shards, dtype, faulty, *others)

    monkeypatch.setattr(hugging_face, "write_shards", with_a_fault)
    for prover in ("transformers", "own"):
        with pytest.raises(Failure, match=r"the proof failed: logits differ .* nothing was written"):
            exported(checkpoint, tmp_path / "export", proof=prover)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_export_of_a_tokenizer_that_cuts_differently_is_refused(tmp_path, tokenizer, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    other = train_tokenizer([PASSAGE], BpeConfig(300))
    monkeypatch.setattr(hugging_face, "_write_tokenizer", lambda folder, _: [
        (folder / name).write_bytes(content) for name, content in other.files().items()
    ])  # fmt: skip
    for prover in ("transformers", "own"):
        with pytest.raises(Failure, match=r"the tokenizers cut .* differently"):
            exported(checkpoint, tmp_path / "export", proof=prover)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_damaged_checkpoint_is_refused_by_file(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    state = checkpoint / "state-00000-of-00001.safetensors"
    data = bytearray(state.read_bytes())
    data[-100] ^= 4
    state.write_bytes(data)
    with pytest.raises(Failure, match=r"state-00000-of-00001\.safetensors is damaged"):
        exported(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_with_another_models_tokenizer_is_refused(tmp_path, tokenizer):
    larger = train_tokenizer([PASSAGE], BpeConfig(400))
    model = drawn_model(SMALL.resolve(320)).state_dict()
    (tmp_path / "checkpoint").mkdir()
    write_new_checkpoint(tmp_path / "checkpoint", SMALL.resolve(320), larger, model.__getitem__, {})
    with pytest.raises(Failure, match="a tokenizer of 400 tokens, its model has 320: it is another model's"):
        exported(tmp_path / "checkpoint", tmp_path / "export")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_output_bias": True}, "neither Llama nor Qwen2 has biases on attention's output alone"),
        ({"query_key_norm": True, "feed_forward_bias": True}, "Qwen3, .*, has no biases on the feed-forward layer"),
    ],
)
def test_a_model_that_no_architecture_fits_is_refused_by_name(tmp_path, tokenizer, change, message):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", replace(SMALL, **change), tokenizer)
    with pytest.raises(UserError, match=message):
        exported(checkpoint, tmp_path / "export")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onnx"}, "format=onnx: there are hf"),
        ({"dtype": "int3"}, "dtype=int3: format=hf has float32, bfloat16, float16"),
        ({"shard_bytes": 0}, "shard_bytes=0 must be at least 1"),
        ({"proof": "none"}, "proof=none: there are transformers and own"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        exported(tmp_path, tmp_path / "export", **settings)


def test_verify_names_a_byte_that_is_not_as_it_was_exported(tmp_path, tokenizer):
    folder = exported(make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer), tmp_path / "export", proof="own")
    assert verify(folder, repair=False) == []
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-9] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").unlink()
    problems = verify(folder, repair=False)
    assert [problem.partition(str(folder) + "/")[2].split()[0] for problem in problems] == [
        "config.json",
        "model.safetensors",
    ]


def test_what_is_there_already_is_left_alone(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    folder = exported(checkpoint, tmp_path / "export", proof="own")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        exported(checkpoint, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    one, other = (exported(checkpoint, tmp_path / name, proof="own") for name in ("one", "other"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_the_command_exports_and_says_what_was_proven(tmp_path, tokenizer, capsys):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    assert VERB.main([f"source={checkpoint}", f"output={tmp_path / 'export'}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["proof"]["by"].startswith("Transformers ")
    assert record["proof"]["difference"] <= record["proof"]["allowed"]
    assert VERB.main([f"source={checkpoint}", f"output={tmp_path / 'export'}"]) == 2


def test_without_transformers_the_message_says_what_to_do():
    from train.exchange.transformers_side import choose_prover

    with pytest.raises(UserError, match=r"pip install 'headrace\[export\]', or let proof=own"):
        choose_prover("transformers", lambda: None)
    assert choose_prover("own", lambda: None) == "own"


def test_logits_that_are_no_numbers_prove_nothing():
    broken = torch.full((3, 5), float("nan"))
    with pytest.raises(Failure, match="the proof failed"):
        proof.compare(torch.zeros(3, 5), broken, "a broken model")


def test_special_tokens_that_templates_name_travel_along(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    config |= {"bos_token": {"content": "<|endoftext|>"}, "pad_token": "<|endoftext|>", "unk_token": "<gone>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, load_tokenizer(tmp_path / "tokenizer"))
    read = AutoTokenizer.from_pretrained(exported(checkpoint, tmp_path / "export"))
    assert (read.bos_token, read.pad_token, read.unk_token) == ("<|endoftext|>", "<|endoftext|>", None)


def test_an_export_of_an_older_try_that_was_killed_is_cleared(tmp_path, tokenizer):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", SMALL, tokenizer)
    (tmp_path / ".export.tmp").mkdir()
    (tmp_path / ".export.tmp" / "half").write_text("debris")
    folder = exported(checkpoint, tmp_path / "export", proof="own")
    assert not (folder / "half").exists() and not (tmp_path / ".export.tmp").exists()
    shutil.rmtree(folder)
    assert verify_checkpoint(checkpoint) == []


def test_an_export_holds_a_part_of_the_model_at_a_time(tmp_path, tokenizer):
    """Its 180 MB of weights pass through less than half of that, by a process of its own that counts its memory."""
    large = replace(SMALL, width=512, heads=8, key_value_heads=8, hidden_width=1408, layers=14)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", large, tokenizer)
    weights = (checkpoint / "state-00000-of-00001.safetensors").stat().st_size
    script = Path(__file__).with_name("export_memory.py")
    command = [sys.executable, str(script), str(checkpoint), str(tmp_path / "export")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert weights > 180e6
    assert 0 < int(finished.stdout.split()[-1]) < weights / 2
