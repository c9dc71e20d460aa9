"""Lion, and the average of the weights, at every ZeRO stage and world size: what a plain loop computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import torch
from engine_runs import MODEL, OPTIMIZER, SEQUENCES, rate
from plain_training import plain_loss, plain_model
from torch.nn.utils import clip_grad_norm_

from data_pipeline.foundation.errors import UserError
from train.checkpoint.load import load_transformer
from train.ema import EmaConfig, check_ema
from train.evaluate.__main__ import beside_earlier
from train.exchange.architectures import shapes_of
from train.exchange.weights import CheckpointWeights

PLACES = [(stage, ranks) for stage in range(4) for ranks in (1, 2)]
CPU = torch.device("cpu")


def plain_lion(steps: int = 12) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """Return losses of Lion as its paper's algorithm 2 writes it, and the average of the weights with decay 0.8."""
    model, _ = plain_model()
    named = dict(model.named_parameters())
    momentum = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    average: dict[str, torch.Tensor] = {}
    losses = {}
    for step in range(1, steps + 1):
        loss = plain_loss(model, torch.optim.SGD(model.parameters()), step, SEQUENCES)
        model.zero_grad()
        loss.backward()
        losses[step] = loss.item()
        clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        with torch.no_grad():
            for name, parameter in named.items():
                assert parameter.grad is not None
                decay = 1.0 if parameter.dim() == 2 and name != "embedding.weight" else 0.0
                direction = torch.sign(0.9 * momentum[name] + 0.1 * parameter.grad)
                parameter.sub_(rate(step) * (direction + decay * parameter))
                momentum[name] = 0.99 * momentum[name] + 0.01 * parameter.grad
        average = averaged(average, named, step)
    return losses, average


def averaged(
    average: dict[str, torch.Tensor], named: dict[str, torch.nn.Parameter], updates: int
) -> dict[str, torch.Tensor]:
    if not average:
        return {name: parameter.detach().clone() for name, parameter in named.items()}
    decay = min(0.8, (1 + updates) / (10 + updates))
    return {name: decay * average[name] + (1 - decay) * parameter.detach() for name, parameter in named.items()}


@pytest.fixture(scope="module")
def plain() -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    return plain_lion()


@pytest.mark.parametrize(("stage", "ranks"), PLACES)
def test_every_stage_is_the_plain_loop(optimized, plain, stage, ranks):
    """Where a momentum is all but 0, rounding decides its sign: hence not to the last digit."""
    assert optimized.losses(ranks, f"lion {stage}") == pytest.approx(plain[0], abs=2e-3)


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_resumed_in_the_same_shape_all_is_bitwise_the_same_the_average_too(optimized, stage, ranks):
    whole, resumed = (optimized.losses(ranks, f"lion {stage}{suffix}") for suffix in ("", " resumed"))
    assert resumed == {step: loss for step, loss in whole.items() if step > 5}
    ends = [optimized.checkpoint(f"{ranks}-lion-{stage}{suffix}", 12) for suffix in ("", "-resumed")]
    for path in ends[0].glob("*.safetensors"):
        assert path.read_bytes() == (ends[1] / path.name).read_bytes()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["lion-0", "lion-1", "lion-2", "lion-3", "lion-0-3", "lion-3-1"])
def test_the_average_is_that_of_the_plain_loop_wherever_it_was_kept(optimized, plain, kind, ranks):
    model = load_transformer(optimized.checkpoint(f"{ranks}-{kind}", 12), CPU, average=True)
    for name, parameter in model.named_parameters():
        error = float((parameter.detach() - plain[1][name]).norm() / plain[1][name].norm())
        assert error < 0.01, name


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", [0, 2])
def test_a_refused_update_is_not_averaged_and_adamw_is_left_alone(optimized, ranks, stage):
    model, optimizer = plain_model()
    named, average, updates = dict(model.named_parameters()), {}, 0
    for step in range(1, 13):
        loss = plain_loss(model, optimizer, step, SEQUENCES)
        assert optimized.losses(ranks, f"averaged {stage}")[step] == pytest.approx(loss.item(), abs=2e-5)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        if step != 3:
            optimizer.step()
            updates += 1
            average = averaged(average, named, updates)
    loaded = load_transformer(optimized.checkpoint(f"{ranks}-averaged-{stage}", 12), CPU, average=True)
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter.data, average[name], atol=1e-4, rtol=1e-3)


def test_state_is_a_moment_and_an_average_and_an_export_has_which_is_asked_for(optimized):
    checkpoint = optimized.checkpoint("2-lion-3", 12)
    assert kinds_in(checkpoint) == {"master", "exp_avg", "average"}
    name = "blocks.0.feed_forward.up.weight"
    last, average = (CheckpointWeights(checkpoint, shapes_of(MODEL), asked).read(name) for asked in (False, True))
    models = [load_transformer(checkpoint, CPU, average=asked) for asked in (False, True)]
    assert torch.equal(last, models[0].blocks[0].feed_forward.up.weight)
    assert torch.equal(average, models[1].blocks[0].feed_forward.up.weight)
    assert not torch.equal(last, average)


def test_an_average_that_is_not_there_is_refused(optimized):
    with pytest.raises(UserError, match=r"average=true: .* holds no average of its weights; train with ema.decay"):
        load_transformer(optimized.checkpoint("1-muon-1", 12), CPU, average=True)


def test_a_result_of_the_average_never_stands_beside_one_of_the_last_weights(tmp_path):
    last = {"checkpoint": "c", "step": 12, "perplexity": 9.0}
    (tmp_path / "evaluation.json").write_text(json.dumps(last))
    tasks = {"checkpoint": "c", "step": 12, "average": True, "tasks": {"sums": 1.0}}
    assert beside_earlier(tmp_path / "evaluation.json", tasks) == tasks
    without = {key: value for key, value in tasks.items() if key != "average"}
    assert beside_earlier(tmp_path / "evaluation.json", without) == {**last, **without}


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(UserError, match=r"ema\.decay"):
        check_ema(EmaConfig(decay))


def kinds_in(checkpoint: Path) -> set[str]:
    found: set[str] = set()
    for path in checkpoint.glob("state-*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            found |= {key.rsplit("/", 1)[1] for key in json.loads(file.metadata()["ranges"])}
    return found
