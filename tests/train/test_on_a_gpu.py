"""What kernels of a GPU compute, beside what its CPU does."""

from __future__ import annotations

import pytest
import torch
from small_models import SMALL, drawn_model
from test_transformer import dense_mask
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from train.compilation import compile_blocks
from train.float8 import CAPABILITY, multiply_in_float8
from train.model.attention import attend_to_earlier, attend_within_documents
from train.model.cross_entropy import linear_cross_entropy
from train.model.documents import lay_out

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ENDS = [[100, 130, 512], [512], [1, 2, 512]]


def heads(*counts: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(3, count, 512, 64, generator=generator) for count in counts)
    return [each.cuda().to(dtype).requires_grad_() for each in drawn]


def gradients(attended: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [attended, *torch.autograd.grad(attended.float().square().sum(), inputs)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], share: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=share * float(other.abs().max()), rtol=0)


def test_in_16_bits_attention_is_the_flash_kernel():
    """It alone is allowed: where it can't run, the call fails."""
    inputs = heads(8, 2, 2, dtype=torch.bfloat16)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = gradients(attend_to_earlier(*inputs), inputs)
    whole = [each.detach().float().requires_grad_() for each in inputs]
    mask = dense_mask([[512]] * 3).cuda()
    expected = scaled_dot_product_attention(*whole, attn_mask=mask, enable_gqa=True)
    assert_close(found, gradients(expected, whole), 0.02)


def test_flex_attention_compiled_has_the_values_and_gradients_of_a_dense_mask():
    inputs = heads(8, 2, 2)
    found = gradients(attend_within_documents(*inputs, lay_out(ENDS, torch.device("cuda"))), inputs)
    expected = scaled_dot_product_attention(*inputs, attn_mask=dense_mask(ENDS).cuda(), enable_gqa=True)
    assert_close(found, gradients(expected, inputs), 0.01)


@pytest.mark.parametrize("fused", [False, True])
def test_the_chunked_loss_holds_no_logits_and_is_cross_entropy(fused):
    hidden = torch.randn(4096, 256, device="cuda", requires_grad=True)
    weight = (torch.randn(32768, 256, device="cuda") * 0.05).requires_grad_()
    targets = torch.randint(32768, (4096,), device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = linear_cross_entropy(hidden, weight, targets, 0.0, fused)
    found = [loss, *torch.autograd.grad(loss, (hidden, weight))]
    assert torch.cuda.max_memory_allocated() - before < 4096 * 32768 * 4
    plain = cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    assert_close(found, [plain, *torch.autograd.grad(plain, (hidden, weight))], 1e-3)


def test_compiled_blocks_have_the_gradients_of_uncompiled_ones():
    plain = drawn_model(SMALL.resolve(96)).train().cuda()
    compiled = drawn_model(SMALL.resolve(96)).train().cuda()
    compile_blocks(compiled)
    tokens = torch.randint(96, (3, 129), generator=torch.Generator().manual_seed(1)).cuda()
    ends = [[5, 128], [128], [3, 9, 128]]
    for model in (plain, compiled):
        model(tokens[:, :-1], tokens[:, 1:], document_ends=ends).backward()
    assert_close([each.grad for each in compiled.parameters()], [each.grad for each in plain.parameters()], 1e-2)


def test_logits_are_those_of_the_cpu():
    model = drawn_model(SMALL.resolve(96))
    prompt = torch.arange(8).view(1, 8)
    expected = model(prompt)
    torch.testing.assert_close(model.cuda()(prompt.cuda()).cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY,
    reason="needs a GPU with units for 8-bit floats",
)
def test_8_bit_products_are_those_that_a_cpu_emulates():
    pytest.importorskip("torchao", reason="precision=fp8 needs torchao")
    plain, rounded = (drawn_model(SMALL.resolve(96)).cuda().bfloat16() for _ in range(2))
    multiply_in_float8(rounded)
    tokens = torch.randint(96, (2, 64), generator=torch.Generator().manual_seed(1)).cuda()
    for model in (plain, rounded):
        model(tokens, tokens).backward()
    assert_close([each.grad for each in rounded.parameters()], [each.grad for each in plain.parameters()], 0.2)
