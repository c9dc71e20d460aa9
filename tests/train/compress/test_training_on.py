"""Training for a smaller model: quantized values forward, plain gradients backward; zeros of a pruned model stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import python, run_command
from small_models import drawn_model, make_checkpoint, some_tokens, tokenizer_of_dataset

from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.foundation.errors import UserError
from train.checkpoint.folder import list_checkpoints
from train.checkpoint.load import load_transformer
from train.compress.compress import compress
from train.compress.rounding import round_to_nearest
from train.compress.settings import CompressConfig, MeasureConfig, MethodConfig
from train.model.compressible import (
    QuantizationAwareConfig,
    check_quantization,
    keep_zeros,
    straight_through,
    view_weights,
)
from train.model.quantized import Scheme
from train.model.transformer import TransformerConfig
from train.preflight import prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.source import load_source

SHAPE = TransformerConfig(
    width=64, layers=2, heads=4, key_value_heads=2, hidden_width=128, maximum_length=128, tied_embeddings=True
)


def test_a_weight_is_seen_as_its_quantized_values_and_learns_as_itself():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = straight_through(Scheme(4, 32))(weight)
    expected = round_to_nearest(weight.detach(), Scheme(4, 32), clip=False).values()
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)
    factor = torch.randn(8, 64)
    (seen * factor).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, factor)


def test_zeros_get_no_gradient_and_all_else_its_own():
    weight = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], requires_grad=True)
    (keep_zeros(weight) * torch.tensor([[5.0, 6.0], [7.0, 8.0]])).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0.0, 6.0], [7.0, 0.0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_the_whole_model_computes_what_its_compressed_form_will(bits):
    config = SHAPE.resolve(320)
    model, tokens = drawn_model(config), some_tokens(320)
    restored = drawn_model(config)
    for name, parameter in restored.named_parameters():
        if parameter.dim() == 2:
            scheme = Scheme(bits, 32) if name != "embedding.weight" else Scheme(8, 32 if bits == 8 else 0)
            parameter.data.copy_(round_to_nearest(parameter.data, scheme, clip=False).values())
    view_weights(model, QuantizationAwareConfig(bits=bits), pruned=False)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), restored(tokens), atol=2e-5, rtol=0)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in model.parameters())


def test_settings_that_cannot_work_are_one_line():
    model = SHAPE.resolve(320)
    for config, lora, message in (
        (QuantizationAwareConfig(bits=5), None, "quantization.bits=5: there is 8 and 4"),
        (QuantizationAwareConfig(group=32), None, "need quantization=int4 or int8"),
        (QuantizationAwareConfig(bits=4), 8, "choose one of them"),
        (
            QuantizationAwareConfig(bits=4, group=48),
            None,
            "quantization.group=48 doesn't divide the model's rows of 64",
        ),
    ):
        with pytest.raises(UserError, match=message):
            check_quantization(config, lora, model)


def test_a_pruned_model_trained_for_four_bits_keeps_its_zeros_and_compresses_to_what_was_trained(
    small_dataset, tmp_path
):
    make_checkpoint(tmp_path / "parent", SHAPE, tokenizer_of_dataset(small_dataset))
    measure = MeasureConfig(data=str(small_dataset), tokens=200, length=64, decode=2, rounds=1)
    pruning = MethodConfig(kind="magnitude", pattern="2:4")
    compress(CompressConfig(str(tmp_path / "parent"), str(tmp_path / "pruned"), pruning, measure=measure))
    register_schemas()
    for filling in ("optimizer=muon", "lora.rank=2"):
        given = [f"start_from={tmp_path / 'pruned'}", f"data.path={small_dataset}", f"run.root={tmp_path}", filling]
        with pytest.raises(UserError, match=r"is pruned, and .* would fill its zeros"):
            prepare_run(compose_configuration("train", given, TrainConfig), 1)
    settings = [f"start_from={tmp_path / 'pruned'}", f"data.path={small_dataset}", "run.name=on", "tracker=none"]
    settings += [
        "quantization=int4",
        "steps=3",
        "schedule.warmup_steps=0",
        "data.sequence_length=32",
        "batch.sequences=4",
        "batch.micro=2",
    ]
    ended = run_command(python("-m", "launch.command", "train", *settings, "optimizer.learning_rate=1e-3"), tmp_path)
    assert ended.code == 0, ended.err
    [checkpoint] = list_checkpoints(tmp_path / "runs" / "on" / "checkpoints")
    before, after = (load_transformer(folder, torch.device("cpu")) for folder in (tmp_path / "pruned", checkpoint))
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters()):
        assert torch.equal(old == 0, new == 0), name
        assert not torch.equal(old, new), name
    described = json.loads((checkpoint / "model.json").read_text())
    assert described["pruning"]["pattern"] == "2:4" and described["quantization_aware"]["bits"] == 4
    smaller = tmp_path / "smaller"
    method = MethodConfig(kind="quantization", bits=4, embedding_bits=8)
    record = compress(CompressConfig(str(checkpoint), str(smaller), method, measure=measure))
    assert any("need not stay zeros" in note for note in record["notes"])
    view_weights(after, QuantizationAwareConfig(bits=4), pruned=False)
    tokens = some_tokens(after.config.vocabulary_size)
    with torch.no_grad():
        torch.testing.assert_close(load_source(smaller).model(tokens), after(tokens), atol=1e-4, rtol=0)
    assert Path(record["parent"]["checkpoint"]).name == checkpoint.name
