"""The chunked loss is the plain one, with its gradients, and never holds all logits."""

from __future__ import annotations

import pytest
import torch
from compiler import needs_compiler
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.model import cross_entropy as chunked
from train.model.cross_entropy import linear_cross_entropy, linear_log_probabilities
from train.model.divergence import Mixture, Taught, linear_distillation

N, D, V = 50, 16, 37


@pytest.fixture(autouse=True)
def any_number_of_rows(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_ROWS", 1)


def example(
    dtype: torch.dtype = torch.float32, ignored: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator)
    targets[torch.rand(N, generator=generator) < ignored] = -1
    return hidden, weight, targets


def plain_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z_loss: float = 0.0) -> torch.Tensor:
    """Cross-entropy over whole logits, and the z-loss as the papers write it."""
    logits = hidden.float() @ weight.float().t()
    loss = cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    if z_loss:
        loss = loss + z_loss * (logits.exp().sum(dim=1).log()[targets >= 0] ** 2).sum()
    return loss


def with_gradients(function, *arguments, upstream: float = 1.0) -> list[torch.Tensor]:
    hidden, weight = arguments[:2]
    hidden.grad = weight.grad = None
    loss = function(*arguments)
    (loss * upstream).backward()
    return [loss.detach(), hidden.grad, weight.grad]


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("chunk", [1, V, 7 * V, 10 * V + 5, (N - 1) * V, N * V, 1 << 22])
def test_loss_and_gradients_are_those_of_whole_logits(monkeypatch, chunk, z_loss):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", chunk)
    arguments = example()
    expected = with_gradients(plain_loss, *arguments, z_loss, upstream=0.25)
    measured = with_gradients(linear_cross_entropy, *arguments, z_loss, upstream=0.25)
    for one, other in zip(measured, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_fused_for_gpus_it_is_the_same(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 7 * V)
    arguments = example()
    for z_loss in (0.0, 0.1):
        expected = with_gradients(plain_loss, *arguments, z_loss, upstream=0.25)
        measured = with_gradients(linear_cross_entropy, *arguments, z_loss, True, upstream=0.25)
        for one, other in zip(measured, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [V, 1 << 22])
def test_in_bf16_it_stays_close_and_sums_in_float32(monkeypatch, chunk):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", chunk)
    arguments = example(torch.bfloat16)
    loss, *gradients = with_gradients(linear_cross_entropy, *arguments)
    expected, *expected_gradients = with_gradients(plain_loss, *arguments)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=0.01)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - other).norm() < 0.02 * other.norm()


def test_ignored_targets_count_nothing_and_learn_nothing():
    hidden, weight, targets = example()
    loss, hidden_gradient, weight_gradient = with_gradients(linear_cross_entropy, hidden, weight, targets, 1e-2)
    assert bool((hidden_gradient[targets < 0] == 0).all()) and bool((hidden_gradient[targets >= 0] != 0).any(1).all())
    kept = targets >= 0
    alone = [hidden.detach()[kept].requires_grad_(), weight, targets[kept], 1e-2]
    expected, _, expected_weight = with_gradients(linear_cross_entropy, *alone)
    torch.testing.assert_close((loss, weight_gradient), (expected, expected_weight), rtol=1e-5, atol=1e-5)


def test_without_any_target_loss_and_gradients_are_zero():
    hidden, weight, targets = example()
    for value in with_gradients(linear_cross_entropy, hidden, weight, torch.full_like(targets, -1)):
        assert not value.any()


@pytest.mark.parametrize("chunk", [1, 7 * V, 10 * V + 5, 1 << 22])
def test_log_probabilities_and_their_gradients_are_those_of_whole_logits(monkeypatch, chunk):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", chunk)
    hidden, weight, targets = example()
    upstream = torch.randn(N, generator=torch.Generator().manual_seed(1))
    plain = (hidden @ weight.t()).log_softmax(1).gather(1, targets.clamp(min=0)[:, None])[:, 0] * (targets >= 0)
    expected = [plain, *torch.autograd.grad(plain, (hidden, weight), upstream)]
    measured = linear_log_probabilities(hidden, weight, targets)
    for one, other in zip([measured, *torch.autograd.grad(measured, (hidden, weight), upstream)], expected):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_gradients_of_a_sum_are_those_of_finite_differences(monkeypatch, divergence):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 3 * V)
    hidden, weight, targets = (each[:8] if each.shape[0] == N else each for each in example())
    taught = Taught(torch.randn(8, D, generator=torch.Generator().manual_seed(2)), weight.detach().flip(0))
    mixture = Mixture(divergence, temperature=1.5, hard_weight=0.4)

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return linear_distillation(hidden, weight, targets, taught, mixture)

    leaf = hidden.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        slope = (loss(leaf + 1e-2 * direction) - loss(leaf - 1e-2 * direction)) / 2e-2
    size = float(gradient.norm() * direction.norm())
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), abs=1e-3 * size)


def test_huge_logits_stay_finite():
    hidden, weight, targets = example()
    results = with_gradients(linear_cross_entropy, (hidden * 1e4).detach().requires_grad_(), weight, targets)
    assert all(bool(value.isfinite().all()) for value in results)


def test_without_gradients_the_loss_is_the_same():
    arguments = example()
    with torch.no_grad():
        without = linear_cross_entropy(*arguments)
    assert not without.requires_grad
    assert torch.equal(without, linear_cross_entropy(*arguments).detach())


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        made = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return result


def distil(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    taught = Taught(hidden.detach().flip(0), weight.detach())
    return linear_distillation(hidden, weight, targets, taught, Mixture("reverse", 2.0, 0.5))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probabilities, distil])
def test_all_logits_are_never_held(monkeypatch, function, gradients):
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 4096)
    tokens, width, vocabulary = 1000, 8, 512
    hidden = torch.randn(tokens, width, requires_grad=gradients)
    weight = torch.randn(vocabulary, width, requires_grad=gradients)
    targets = torch.randint(vocabulary, (tokens,))
    with LargestTensor() as largest:
        loss = function(hidden, weight, targets)
        if gradients:
            loss.sum().backward()
    assert 4096 <= largest.elements < 10_000 < tokens * vocabulary
    with LargestTensor() as largest:
        plain_loss(hidden, weight, targets)
    assert largest.elements >= tokens * vocabulary, "the plain way would be noticed"
