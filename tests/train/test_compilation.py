"""Compiled blocks compute what blocks do, with documents, recomputation, ZeRO and sequences of any length."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from small_models import SMALL, drawn_model
from soak import long

from data_pipeline.foundation.errors import UserError
from train.compilation import check_compile, check_compiler, compile_blocks, compile_seconds
from train.model.transformer import Transformer

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
DOCUMENTS = {16: [[5, 16], [16], [3, 9, 16]], 40: [[40], [7, 8, 40], [39, 40]], 23: [[1, 23], [11, 23], [23]]}


def test_without_a_compiler_it_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CC", "no-such-compiler")
    check_compiler(False)
    with pytest.raises(UserError, match=r"compile=true needs the compiler no-such-compiler.* install it"):
        check_compiler(True)


@needs_compiler
def test_what_blocks_can_not_be_compiled_with_is_refused_by_name():
    check_compile(True, 3, None, 0, 1, 1)
    check_compile(True, 2, 8, 0, 1, 1)
    refused = {
        (3, 8, 0, 1, 1): "lora.rank and zero=3",
        (0, None, 4, 1, 1): "experts=4",
        (0, None, 0, 2, 1): "sequence=2",
        (0, None, 0, 1, 2): "tensor=2",
    }
    for asked, named in refused.items():
        with pytest.raises(UserError, match=f"compile=true with .*{named}"):
            check_compile(True, *asked)


def gradients(model: Transformer, length: int, documents: bool) -> list[torch.Tensor]:
    """Return the loss and every gradient of a batch of three sequences of a length."""
    tokens = torch.randint(96, (3, length + 1), generator=torch.Generator().manual_seed(length))
    model.zero_grad()
    loss = model(tokens[:, :-1], tokens[:, 1:], document_ends=DOCUMENTS[length] if documents else None)
    loss.backward()
    return [loss.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]


@needs_compiler
@pytest.mark.parametrize("documents", [False, True], ids=["running text", "documents"])
def test_one_compilation_serves_all_blocks_and_lengths_and_recomputes(documents):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain = drawn_model(SMALL.resolve(96)).train()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    graphs = []
    for number, length in enumerate(DOCUMENTS):
        compiled.checkpoint_activations = number == 2
        for one, other in zip(gradients(compiled, length, documents), gradients(plain, length, documents), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        graphs.append(counters["stats"]["unique_graphs"])
    # A block is one graph, or four: the two of its attention around that of documents, one before them and one after.
    assert graphs == ([4, 4, 4] if documents else [1, 1, 1])
    assert compile_seconds() > 0


@needs_compiler
@pytest.mark.parametrize(
    ("plan", "ranks"),
    [pytest.param("compiled 0", 1, marks=long), ("compiled 3", 1), pytest.param("compiled 1", 2, marks=long)],
)
def test_with_zero_it_learns_what_uncompiled_training_does(trainings, plan, ranks):
    stage = plan.split()[1]
    compiled = trainings.losses(ranks, plan)
    assert compiled == pytest.approx(
        {step: loss for step, loss in trainings.losses(ranks, f"stage {stage}").items() if step in compiled}, abs=2e-5
    )
