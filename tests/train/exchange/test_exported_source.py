"""An exported model is a source like a checkpoint: it scores and writes the same; what is no model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_models import SMALL, make_checkpoint, some_tokens, tokenizer_of_dataset

from data_pipeline.foundation.errors import Failure, UserError
from train.evaluate.__main__ import VERB as EVALUATE
from train.exchange.export import ExportConfig, export
from train.generate import VERB as GENERATE
from train.source import load_source, locate_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    return make_checkpoint(folder, SMALL, tokenizer_of_dataset(small_dataset))


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    output = checkpoint.parent / "export"
    export(ExportConfig(source=str(checkpoint), output=str(output), proof="own"))
    return output


def test_it_computes_and_encodes_as_its_checkpoint_does(checkpoint, folder):
    original, found = load_source(checkpoint), load_source(folder)
    tokens = some_tokens(SMALL.resolve(original.tokenizer.vocabulary_size).vocabulary_size)
    with torch.inference_mode():
        torch.testing.assert_close(found.model(tokens), original.model(tokens), atol=1e-6, rtol=0)
    assert found.tokenizer.fingerprint == original.tokenizer.fingerprint
    assert (found.step, found.sequence_length, found.run) == (original.step, original.sequence_length, None)


def test_a_gguf_file_is_one_too(checkpoint, tmp_path):
    output = tmp_path / "model.gguf"
    export(ExportConfig(source=str(checkpoint), output=str(output), format="gguf"))
    original, found = load_source(checkpoint), load_source(output)
    tokens = some_tokens(original.model.config.vocabulary_size)
    with torch.inference_mode():
        torch.testing.assert_close(found.model(tokens), original.model(tokens), atol=1e-5, rtol=0)


def test_evaluate_and_generate_say_of_it_what_they_say_of_the_checkpoint(checkpoint, folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("river stone moss and light " * 20, encoding="utf-8")
    scored, written = [], []
    for source in (checkpoint, folder):
        assert EVALUATE.main([f"source={source}", f"text={text}", "--json"]) == 0
        scored.append(json.loads(capsys.readouterr().out)["loss"])
        assert GENERATE.main([f"source={source}", "prompt=river", "tokens=20", "temperature=0", "--json"]) == 0
        written.append(json.loads(capsys.readouterr().out)["text"])
    assert scored[0] == pytest.approx(scored[1], abs=1e-6)
    assert written[0] == written[1]


def test_what_is_no_model_of_ours_is_refused_in_one_line(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"type .gpt2.; what can be taken in is llama, qwen2, qwen3"):
        load_source(other)
    (tmp_path / "notes.txt").write_text("words", encoding="utf-8")
    with pytest.raises(UserError, match=r"neither a run, a checkpoint, a Hugging Face folder nor a \.gguf file"):
        load_source(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"make a checkpoint of it by `headrace import`"):
        locate_checkpoint(folder, "start_from")


def test_a_damaged_export_is_not_used(folder, tmp_path):
    import shutil

    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    [weights] = damaged.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Failure, match=f"export .* is damaged: .*{weights.name}"):
        load_source(damaged)
