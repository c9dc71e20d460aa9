"""Whatever has weights is served alike: a checkpoint, a compressed one, an export as a folder or as a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from served import CONFIG, drawn_checkpoint, served

from data_pipeline.foundation.errors import UserError
from train.compress.calibration import CalibrationConfig
from train.compress.compress import compress
from train.compress.settings import CompressConfig, MeasureConfig, MethodConfig
from train.exchange.export import ExportConfig, export
from train.serve.command import service_of
from train.serve.settings import ServeConfig, check_serve
from train.source import load_source

TOKENS = 12


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    shape = replace(CONFIG, width=64, hidden_width=96, maximum_length=256)
    return drawn_checkpoint(tmp_path_factory.mktemp("parent") / "drawn", small_dataset, shape)


def of_eight_bits(parent: Path, output: Path, text: Path) -> None:
    method = MethodConfig(kind="quantization", bits=8)
    compress(CompressConfig(str(parent), str(output), method, CalibrationConfig(), MeasureConfig([str(text)])))


def as_folder(parent: Path, output: Path, text: Path) -> None:
    export(ExportConfig(str(parent), str(output), proof="own"))


def as_gguf(parent: Path, output: Path, text: Path) -> None:
    pytest.importorskip("gguf")
    export(ExportConfig(str(parent), str(output), format="gguf"))


@pytest.mark.parametrize(("make", "name"), [(of_eight_bits, "int8"), (as_folder, "folder"), (as_gguf, "model.gguf")])
def test_what_is_made_of_a_checkpoint_is_served_and_says_what_it_computes(
    make: Callable[[Path, Path, Path], None], name: str, parent: Path, tmp_path: Path
):
    text = tmp_path / "text.txt"
    text.write_text("water channel gate mill wheel stream stone. " * 30, encoding="utf-8")
    make(parent, tmp_path / name, text)
    with served(tmp_path / name, "slots=2", "context=64", "prefill=16") as server:
        answer = server.client().completions.create(
            model=server.name, prompt=[5, 6, 7, 8], max_tokens=TOKENS, temperature=0, logprobs=1
        )
    assert [round(each, 3) for each in answer.choices[0].logprobs.token_logprobs] == greedy(tmp_path / name)


def test_an_average_that_is_not_there_is_not_served(parent: Path):
    with pytest.raises(UserError, match="holds no average of its weights"), service_of(ServeConfig(str(parent), True)):
        pass
    with pytest.raises(UserError, match="average=true with backend=vllm: export it with average=true"):
        check_serve(ServeConfig(str(parent), True, backend="vllm"))


@torch.no_grad()
def greedy(source: Path) -> list[float]:
    """Return the log-probabilities of the likeliest tokens, each with all before it in one pass."""
    model, tokens, likelihoods = load_source(source).model, [5, 6, 7, 8], []
    for _ in range(TOKENS):
        logits = model(torch.tensor([tokens]))[0, -1].log_softmax(-1)
        tokens.append(int(logits.argmax()))
        likelihoods.append(round(float(logits.max()), 3))
    return likelihoods
