"""A compressed checkpoint is a checkpoint: it scores, writes, exports, verifies and trains; mistakes are one line."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import python, run_command
from small_models import make_checkpoint, some_tokens, tokenizer_of_dataset

from data_pipeline.foundation.errors import Failure, UserError
from train.checkpoint.folder import verify_checkpoint
from train.checkpoint.load import load_transformer, packed_file, read_trainer_state
from train.compress.calibration import CalibrationConfig
from train.compress.compress import VERB, compress
from train.compress.settings import CompressConfig, MeasureConfig, MethodConfig, check_fits
from train.evaluate.__main__ import VERB as EVALUATE
from train.exchange.export import ExportConfig, export
from train.generate import VERB as GENERATE
from train.model.transformer import TransformerConfig
from train.source import load_source
from train.start import origin_of

SHAPE = TransformerConfig(
    width=64, layers=3, heads=4, key_value_heads=2, hidden_width=128, maximum_length=128, tied_embeddings=True
)
INT4 = MethodConfig(kind="quantization", bits=4, embedding_bits=8)
INT8 = MethodConfig(kind="quantization", bits=8)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "rivers.txt"
    path.write_text("water channel gate mill wheel stream stone valley river turn slow deep. " * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "checkpoint"
    return make_checkpoint(folder, SHAPE, tokenizer_of_dataset(small_dataset))


def made(source: Path, output: Path, text: Path, method: MethodConfig, **calibration: Any) -> dict[str, Any]:
    calibrating = CalibrationConfig(text=str(text), **({"sequences": 8, "length": 32} | calibration))
    measure = MeasureConfig(texts=[str(text)], tokens=300, length=64, decode=4, rounds=1)
    return compress(CompressConfig(str(source), str(output), method, calibrating, measure))


@pytest.fixture(scope="module")
def int4(parent: Path, text: Path) -> tuple[Path, dict[str, Any]]:
    folder = parent.parent / "int4"
    return folder, made(parent, folder, text, INT4)


def test_bytes_are_those_of_codes_and_grids(int4):
    folder, record = int4
    parameters = sum(values.numel() for values in load_transformer(folder, torch.device("cpu")).parameters())
    vectors = 7 * 64
    vocabulary = load_source(folder).model.config.vocabulary_size
    blocks = parameters - vectors - 64 * vocabulary
    # A half byte and, for each 32, two float16; a byte for embeddings and a float32 for each row.
    expected = blocks * (0.5 + 4 / 32) + vocabulary * (64 + 4) + 4 * vectors
    assert record["bytes"]["before"] == 4 * parameters
    assert expected <= record["bytes"]["after"] <= expected + 9000  # the file's header
    assert (folder / "packed.safetensors").stat().st_size == record["bytes"]["after"]


def test_the_packed_model_computes_what_the_restored_one_does(int4):
    folder, _ = int4
    packed, restored = load_source(folder).model, load_transformer(folder, torch.device("cpu"))
    assert sum(buffer.numel() for buffer in packed.buffers()) > 0
    tokens = some_tokens(packed.config.vocabulary_size)
    with torch.no_grad():
        torch.testing.assert_close(packed(tokens), restored(tokens), atol=1e-4, rtol=0)
        losses = [float(model(tokens[:, :-1], tokens[:, 1:])) for model in (packed, restored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_its_figures_are_those_of_the_evaluator(int4, parent, text, capsys):
    folder, record = int4
    for when, source in (("before", parent), ("after", folder)):
        command = [f"source={source}", f"text={text}", "sequence_length=64", "--json"]
        assert EVALUATE.main(command) == 0
        whole = json.loads(capsys.readouterr().out)
        assert record["texts"]["rivers"][when]["tokens"] == 300
        assert math.isclose(record["texts"]["rivers"][when]["loss"], whole["loss"], rel_tol=0.1)
    full = compress(
        CompressConfig(
            str(parent), str(folder.parent / "whole"), INT4, measure=MeasureConfig([str(text)], tokens=None, length=64)
        )
    )
    assert full["texts"]["rivers"]["after"]["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert full["texts"]["rivers"]["after"]["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)


def test_it_writes_verifies_and_knows_its_parent(int4, parent, capsys):
    folder, record = int4
    assert GENERATE.main([f"source={folder}", "prompt=river", "tokens=5", "temperature=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"]
    assert verify_checkpoint(folder) == []
    lineage = read_trainer_state(folder).lineage["compressed"]
    assert lineage["of"] == origin_of(parent) == record["parent"]
    assert lineage["method"] == record["method"] and lineage["method"]["bits"] == 4
    assert json.loads((folder / "compression.json").read_text()) == record
    page = (folder / "compression.html").read_text()
    assert "quantization (bits 4" in page and "perplexity, rivers" in page


def test_one_flipped_bit_is_seen(int4, tmp_path):
    folder = Path(shutil.copytree(int4[0], tmp_path / "damaged"))
    content = bytearray((folder / "packed.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "packed.safetensors").write_bytes(content)
    with pytest.raises(Failure, match=r"packed\.safetensors is damaged"):
        load_source(folder)


def test_it_exports_with_restored_weights_and_a_card_that_says_so(int4, tmp_path):
    folder, _ = int4
    export(ExportConfig(source=str(folder), output=str(tmp_path / "hf"), proof="own"))
    export(ExportConfig(source=str(folder), output=str(tmp_path / "model.gguf"), format="gguf"))
    restored, tokens = load_transformer(folder, torch.device("cpu")), some_tokens(64)
    for exported in (tmp_path / "hf", tmp_path / "model.gguf"):
        with torch.no_grad():
            torch.testing.assert_close(load_source(exported).model(tokens), restored(tokens), atol=1e-5, rtol=0)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "quantization (bits 4" in card and "restored from codes" in card and '"compressed"' in card


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("kind", ["magnitude", "wanda"])
def test_pruned_weights_are_zero_and_the_others_as_they_were(parent, text, tmp_path, kind, pattern):
    record = made(parent, tmp_path / "pruned", text, MethodConfig(kind=kind, pattern=pattern, share=0.5))
    before, after = (load_transformer(folder, torch.device("cpu")) for folder in (parent, tmp_path / "pruned"))
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters()):
        kept = new != 0
        assert torch.equal(new[kept], old[kept])
        if name.startswith("blocks") and new.dim() == 2:
            assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
            if pattern:
                assert (kept.view(-1, 4).sum(1) == 2).all()
        else:
            assert torch.equal(new, old)
    assert record["bytes"]["share"] == pytest.approx(1.0, abs=0.01)
    assert any("nothing faster or smaller" in note for note in record["notes"])
    with pytest.raises(UserError, match="is pruned already, by"):
        made(tmp_path / "pruned", tmp_path / "again", text, MethodConfig(kind=kind))


def test_fewer_layers_and_narrower_ones_are_ordinary_checkpoints(parent, text, tmp_path):
    depth = made(parent, tmp_path / "short", text, MethodConfig(kind="depth", layers=1))
    made(parent, tmp_path / "thin", text, MethodConfig(kind="width", hidden_width=64, key_value_heads=1))
    short, thin = load_source(tmp_path / "short").model, load_source(tmp_path / "thin").model
    assert (short.config.layers, thin.config.hidden_width, thin.config.heads) == (2, 64, 2)
    [gone] = depth["found"]["layers_left_out"]
    kept = [layer for layer in range(3) if layer != gone]
    original = load_source(parent).model
    for new, old in enumerate(kept):
        path = "feed_forward.gate.weight"
        assert torch.equal(short.blocks[new].get_parameter(path), original.blocks[old].get_parameter(path))
    assert packed_file(tmp_path / "short") is None


def test_gptq_is_nearer_to_the_parent_than_rounding(small_dataset, text, tmp_path):
    untied = replace(SHAPE, tied_embeddings=False)
    parent = make_checkpoint(tmp_path / "parent", untied, tokenizer_of_dataset(small_dataset))
    losses = {}
    for rounding in ("nearest", "gptq"):
        method = MethodConfig(kind="quantization", bits=4, group=64, rounding=rounding, embedding_bits=8)
        made(parent, tmp_path / rounding, text, method, sequences=24)
        original, smaller = load_source(parent), load_source(tmp_path / rounding)
        tokens = torch.tensor([original.tokenizer.encode(text.read_text())[:100]])
        with torch.no_grad():
            assert packed_file(tmp_path / rounding).schemes["head.weight"].bits == 8
            logs = [model.model(tokens).log_softmax(-1) for model in (original, smaller)]
        losses[rounding] = float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean())
    assert losses["gptq"] < 0.8 * losses["nearest"]


def test_tasks_are_scored_before_and_after(parent, text, tmp_path):
    records = [
        {"question": word, "answer": number % 2} for number, word in enumerate(("river", "stone", "mill", "gate"))
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "words.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "words.yaml").write_text(
        "kind: multiple_choice\ndata: words.jsonl\nprompt: '{{ question }} is'\nchoices: [' slow', ' deep']\n"
        "index: '{{ answer }}'\n",
        encoding="utf-8",
    )
    measure = MeasureConfig(
        [str(text)], tokens=100, length=64, tasks=[str(tmp_path / "words.yaml")], decode=2, rounds=1
    )
    record = compress(CompressConfig(str(parent), str(tmp_path / "int8"), INT8, measure=measure))
    for when, source in (("before", parent), ("after", tmp_path / "int8")):
        output = tmp_path / f"{when}.json"
        command = [f"source={source}", f"tasks=[{tmp_path / 'words.yaml'}]", f"output={output}"]
        assert EVALUATE.main(command) == 0
        assert record["tasks"]["words"][when] == json.loads(output.read_text())["tasks"]["words"]


@pytest.mark.parametrize(
    ("method", "calibration", "message"),
    [
        (
            MethodConfig(kind="quantization", group=48),
            {},
            "method.group=48 doesn't divide the rows of .* 64 or 32 or 16 or 8",
        ),
        (MethodConfig(kind="quantization", bits=3), {}, "method.bits=3: there is 8, 4"),
        (MethodConfig(kind="distill"), {}, "method.kind=distill: there is quantization, magnitude"),
        (MethodConfig(kind="wanda"), {"sequences": 10_000}, "need 320,000: give more text"),
        (MethodConfig(kind="depth", layers=3), {}, "method.layers=3 of 3 can't be left out"),
        (MethodConfig(kind="width"), {}, "needs method.hidden_width, method.key_value_heads or both"),
        (MethodConfig(kind="magnitude", share=1.0), {}, "method.share=1.0 must lie between 0 and 1"),
        (MethodConfig(kind="magnitude", pattern="1:3"), {}, "method.pattern=1:3: there is 2:4"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(parent, text, tmp_path, method, calibration, message):
    with pytest.raises(UserError, match=message) as caught:
        made(parent, tmp_path / "output", text, method, **calibration)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_experts_is_refused():
    model = TransformerConfig(experts=4).resolve(64)
    with pytest.raises(UserError, match="a model with experts can't be compressed yet, and this one has 4"):
        check_fits(MethodConfig(kind="depth", layers=1), model, {})


def test_a_quantized_model_and_one_without_text_to_measure_on_are_refused(int4, parent, text, tmp_path):
    with pytest.raises(UserError, match="is quantized already: compress the model that it was made of"):
        made(int4[0], tmp_path / "twice", text, INT8)
    with pytest.raises(UserError, match="nothing to measure on"):
        compress(CompressConfig(str(parent), str(tmp_path / "output"), INT8))
    with pytest.raises(UserError, match=r"give calibration\.text=FILE or calibration\.data=DATASET"):
        method = MethodConfig(kind="wanda")
        compress(CompressConfig(str(parent), str(tmp_path / "output"), method, measure=MeasureConfig([str(text)])))


def test_the_command_compresses_an_export_and_prints_a_table(parent, text, tmp_path):
    export(ExportConfig(source=str(parent), output=str(tmp_path / "hf"), proof="own"))
    settings = [f"source={tmp_path / 'hf'}", f"output={tmp_path / 'int8'}", "method=int8", f"measure.texts=[{text}]"]
    ended = run_command(python("-m", "launch.command", "compress", *settings, "measure.decode=4"), tmp_path)
    assert ended.code == 0, ended.err
    for words in ("bits per byte, rivers", "perplexity, rivers", "prefill, tokens/s", "decode, tokens/s", "× 0.2"):
        assert words in ended.out
    assert VERB.main([f"source={parent}", f"output={tmp_path / 'x'}", "method=int5"]) == 2
