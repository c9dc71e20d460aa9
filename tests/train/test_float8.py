"""Products in 8-bit floats round as the format says, leave what they are not for alone, and train as bf16 does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from small_models import SMALL, drawn_model
from test_engine import plain_training
from torch.nn.functional import cosine_similarity

from data_pipeline.foundation.errors import UserError
from train.float8 import check_float8, check_float8_tokens, multiply_in_float8
from train.model.layers import Linear

pytest.importorskip("torchao", reason="precision=fp8 needs torchao")
LARGEST = 448.0
"""Of float8_e4m3fn."""


def rounded(matrix: torch.Tensor, dimension: int) -> torch.Tensor:
    """Return a matrix as 8 bits hold it, scaled along a dimension by its largest value rounded down to a power of 2."""
    scale = (LARGEST / matrix.abs().amax(dimension, keepdim=True).double()).log2().floor().exp2().float()
    return (matrix.float() * scale).to(torch.float8_e4m3fn).float() / scale


def test_products_and_gradients_are_those_of_rounded_matrices():
    model = drawn_model(SMALL.resolve(96)).bfloat16()
    layer = model.blocks[0].feed_forward.up
    weight = layer.weight.detach().clone()
    multiply_in_float8(model)
    layer = model.blocks[0].feed_forward.up
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, weight.shape[1], generator=generator).bfloat16().requires_grad_()
    gradient = torch.randn(32, weight.shape[0], generator=generator).bfloat16()
    layer(x).backward(gradient)

    def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(ours.float(), expected, atol=0.01 * float(expected.abs().max()), rtol=0)

    close(layer(x).detach(), rounded(x.detach(), 1) @ rounded(weight, 1).t())
    close(x.grad, rounded(gradient, 1) @ rounded(weight, 0))
    close(layer.weight.grad, rounded(gradient, 0).t() @ rounded(x.detach(), 0))


def test_only_linear_layers_of_blocks_change_and_names_stay():
    model = drawn_model(replace(SMALL, head_width=16).resolve(96))
    before, logits = {name: id(each) for name, each in model.named_parameters()}, model(torch.arange(16).view(1, 16))
    multiply_in_float8(model)
    assert {name: id(each) for name, each in model.named_parameters()} == before
    assert not any(type(module) is Linear for module in model.blocks.modules())
    rounded_logits = model(torch.arange(16).view(1, 16))
    assert not torch.equal(rounded_logits, logits)
    assert float(cosine_similarity(rounded_logits, logits, -1).detach().mean()) > 0.95


@pytest.mark.parametrize("stage", [1, 3])
def test_a_training_stays_close_to_fp32_and_is_not_it(trainings, stage):
    plain, losses = plain_training(12)[0], trainings.losses(1, f"fp8 {stage}")
    assert losses == pytest.approx(plain, abs=0.05)
    assert losses != trainings.losses(1, "bf16 1")


def test_a_checkpoint_goes_on_in_another_precision(trainings):
    losses = trainings.losses(1, "fp8 to fp32")
    assert losses == pytest.approx({step: trainings.losses(1, "fp8 1")[step] for step in losses}, abs=0.05)


@pytest.mark.parametrize(
    ("stage", "recomputes", "others", "message"),
    [
        (3, False, {}, "precision=fp8 with zero=3 needs activation_checkpointing=true"),
        (1, False, {"lora.rank": 8}, "precision=fp8 with lora.rank=8: both change how weights are multiplied"),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(stage, recomputes, others, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_float8(stage, recomputes, others)
    check_float8(stage, True, {})


def test_widths_that_do_not_divide_are_left_as_they_are():
    model = drawn_model(SMALL.resolve(96))
    multiply_in_float8(model)
    assert {name for name, each in model.blocks[0].named_modules() if type(each) is Linear} == {
        "attention.key",
        "attention.value",
    }, "of two heads of 12"


def test_tokens_that_do_not_divide_are_refused():
    check_float8_tokens(2, [8, 24])
    with pytest.raises(UserError, match="the 40 tokens of a micro-batch, 2 sequences of 20, must divide by 16"):
        check_float8_tokens(2, [8, 20])


def test_without_torchao_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs torchao, which is not here: pip install 'headrace\[fp8\]'"):
        check_float8(1, False, {})
