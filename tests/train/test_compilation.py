"""What is compiled computes what isn't, with documents, recomputation, ZeRO and sequences of any length."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from compiler import needs_compiler
from small_models import SMALL, drawn_model
from soak import long

from data_pipeline.foundation.errors import UserError
from train.compilation import (
    BLOCKS,
    DEEPCOMPILE,
    MODEL,
    check_compile,
    check_device,
    check_one_graph,
    compile_blocks,
    compile_model,
    compile_seconds,
    uncompiled,
)
from train.model.cross_entropy import linear_cross_entropy
from train.model.transformer import Transformer

DOCUMENTS = {16: [[5, 16], [16], [3, 9, 16]], 40: [[40], [7, 8, 40], [39, 40]], 23: [[1, 23], [11, 23], [23]]}


def test_without_a_compiler_it_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CC", "no-such-compiler")
    check_compile(False, BLOCKS, 0, None, {})
    with pytest.raises(UserError, match=r"compile=true needs the compiler no-such-compiler.* install it"):
        check_compile(True, BLOCKS, 0, None, {})


@needs_compiler
def test_what_can_be_compiled_together_is_allowed():
    check_compile(True, BLOCKS, 3, None, {"parallel.tensor=1": False})
    check_compile(True, MODEL, 2, 8, {})


def test_what_can_not_be_compiled_together_is_refused_by_name():
    check_compile(False, BLOCKS, 3, 8, {"parallel.tensor=2": True})
    refused = {
        r"compile=true with lora\.rank and zero=3": (True, BLOCKS, 3, 8, {}),
        r"compile=true with parallel\.tensor=2 was never tried": (True, BLOCKS, 0, None, {"parallel.tensor=2": True}),
        r"compiled=model with precision=fp8 was never tried": (True, MODEL, 1, None, {"precision=fp8": True}),
        r"compiled=model with zero=3: .* use compiled=blocks or deepcompile": (True, MODEL, 3, None, {}),
        r"compiled=deepcompile with zero=0: .* use compiled=blocks or model": (True, DEEPCOMPILE, 0, None, {}),
        r"compiled=all: there are blocks, model, deepcompile": (True, "all", 0, None, {}),
        r"compiled=model says what compile=true compiles: add that": (False, MODEL, 0, None, {}),
    }
    for said, asked in refused.items():
        with pytest.raises(UserError, match=said):
            check_compile(*asked)


def test_what_one_graph_can_not_hold_is_refused_for_one_graph_alone():
    check_one_graph(BLOCKS, {"model.document_mask=true": True})
    check_one_graph(MODEL, {"model.document_mask=true": False})
    with pytest.raises(UserError, match=r"compiled=model with model\.document_mask=true: .* use compiled=blocks"):
        check_one_graph(MODEL, {"model.document_mask=true": True})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_deepcompile_is_refused_where_there_is_no_gpu():
    with pytest.raises(UserError, match="compiled=deepcompile needs an NVIDIA GPU"):
        check_device(DEEPCOMPILE)
    check_device(MODEL)


def gradients(model: Transformer, length: int, documents: bool) -> list[torch.Tensor]:
    """Return the loss and every gradient of a batch of three sequences of a length."""
    tokens = torch.randint(96, (3, length + 1), generator=torch.Generator().manual_seed(length))
    model.zero_grad()
    loss = model(tokens[:, :-1], tokens[:, 1:], document_ends=DOCUMENTS[length] if documents else None)
    loss.backward()
    return [loss.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]


def graphs_by_length(compiling: Callable[[Transformer], None], documents: bool = False) -> list[int]:
    """Compare a compiled model at all lengths, recomputing at the last; return how many graphs there are after each."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain = drawn_model(SMALL.resolve(96)).train()
    compiled = copy.deepcopy(plain)
    compiling(compiled)
    graphs = []
    for number, length in enumerate(DOCUMENTS):
        compiled.checkpoint_activations = number == 2
        for one, other in zip(gradients(compiled, length, documents), gradients(plain, length, documents), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        with torch.no_grad():
            compiled(torch.arange(length).unsqueeze(0))
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs


@needs_compiler
@pytest.mark.parametrize("documents", [False, True], ids=["running text", "documents"])
def test_one_compilation_serves_all_blocks_and_lengths_and_recomputes(documents):
    # A block is one graph, or four: the two of its attention around that of documents, one before them and one after.
    assert graphs_by_length(compile_blocks, documents) == ([4, 4, 4] if documents else [1, 1, 1])
    assert compile_seconds() > 0


@needs_compiler
def test_the_whole_model_is_one_graph_at_every_length_and_what_is_not_learnt_from_is_not_compiled():
    assert graphs_by_length(compile_model) == [1, 1, 2], "one, and another that recomputes"


@needs_compiler
def test_uncompiled_nothing_is_compiled_even_with_gradients():
    """As DeepSpeed's engine compiles a model: its call, not its `forward`."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    model = drawn_model(SMALL.resolve(96)).train()
    model.compile(fullgraph=True)
    tokens = torch.arange(24).view(2, 12)
    losses = [model(tokens, tokens).detach()]
    counters.clear()
    with uncompiled():
        losses.append(model(tokens[:, :7], tokens[:, :7]).detach())
        losses.append(model(tokens, tokens).detach())
    assert "stats" not in counters
    torch.testing.assert_close(losses[0], losses[2])


def test_the_loss_in_a_graph_keeps_the_rules_of_operations_and_has_the_gradients_of_that_without():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(rows, 16, generator=generator, requires_grad=True) for rows in (40, 96))
    targets = torch.randint(-1, 96, (40,), generator=generator)
    torch.library.opcheck(torch.ops.headrace.linear_cross_entropy.default, (hidden, weight, targets, 0.01))
    inside = torch.ops.headrace.linear_cross_entropy(hidden, weight, targets, 0.01)[0]
    outside = linear_cross_entropy(hidden, weight, targets, 0.01)
    torch.testing.assert_close(inside, outside)
    for one, other in zip(*(torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (inside, outside))):
        torch.testing.assert_close(one, other)


@needs_compiler
@pytest.mark.parametrize(
    ("plan", "ranks"),
    [
        pytest.param("compiled blocks 0", 1, marks=long),
        ("compiled blocks 3", 1),
        pytest.param("compiled blocks 1", 2, marks=long),
        ("compiled model 2", 1),
        pytest.param("compiled model 1", 2, marks=long),
    ],
)
def test_with_zero_it_learns_what_uncompiled_training_does(trainings, plan, ranks):
    stage = plan.split()[-1]
    compiled = trainings.losses(ranks, plan)
    assert compiled == pytest.approx(
        {step: loss for step, loss in trainings.losses(ranks, f"stage {stage}").items() if step in compiled}, abs=2e-5
    )
