"""What is saved goes on as if nothing had been: bit for bit in the same shape, within float tolerance in any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import tokenizers
import torch
from engine_runs import MODEL
from tokenizers import models
from transformers import AutoModelForCausalLM

from data_pipeline.tokenization.tokenizer import Tokenizer
from train.checkpoint.folder import list_checkpoints, load_checkpoint_manifest, verify_checkpoint
from train.checkpoint.load import load_transformer
from train.exchange.architectures import shapes_of
from train.exchange.checkpoint_source import Source
from train.exchange.hugging_face import export_folder
from train.exchange.lineage import lineage_of
from train.exchange.weights import CheckpointWeights
from train.model.transformer import Transformer

RANKS, STAGES = [1, 2], range(4)


def state_bytes(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def whole_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Lay the pieces of all files together, with plain safetensors; every element must be there exactly once."""
    whole: dict[str, torch.Tensor] = {}
    seen: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("state-*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            for key, (start, stop, shape) in json.loads(file.metadata()["ranges"]).items():
                size = torch.Size(shape).numel()
                whole.setdefault(key, torch.full((size,), float("nan")))[start:stop] = file.get_tensor(key)
                seen.setdefault(key, torch.zeros(size))[start:stop] += 1
    assert all(bool((counts == 1).all()) for counts in seen.values())
    return whole


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_resumed_in_the_same_shape_losses_norms_and_state_are_bitwise_the_same(trainings, stage, ranks):
    whole, resumed = (trainings.by_ranks[ranks][f"{name} {stage}"] for name in ("stage", "resumed"))
    later = [str(step) for step in range(21, 51)]
    for kind in ("losses", "norms"):
        assert resumed[kind] == {step: whole[kind][step] for step in later}
    ends = [trainings.checkpoint(f"{ranks}-{stage}{suffix}", 50) for suffix in ("", "-resumed")]
    assert state_bytes(ends[0]) == state_bytes(ends[1])


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_element_of_every_parameter_is_saved_once_with_its_moments(trainings, stage, ranks):
    state = whole_state(trainings.checkpoint(f"{ranks}-{stage}", 20))
    names = {name: parameter.numel() for name, parameter in Transformer(MODEL).named_parameters()}
    kinds = ("master", "exp_avg", "exp_avg_sq")
    assert {key: values.numel() for key, values in state.items()} == {
        f"{name}/{kind}": size for name, size in names.items() for kind in kinds
    }
    assert all(bool(values.isfinite().all()) for values in state.values())
    assert all(bool(values.any()) for key, values in state.items())


def test_all_stages_and_world_sizes_save_the_same_state(trainings):
    reference = whole_state(trainings.checkpoint("1-0", 20))
    for ranks in RANKS:
        for stage in STAGES:
            state = whole_state(trainings.checkpoint(f"{ranks}-{stage}", 20))
            for key, values in state.items():
                torch.testing.assert_close(values, reference[key], atol=2e-4, rtol=2e-3, msg=f"{ranks} {stage} {key}")


@pytest.mark.parametrize(("name", "ranks"), [("grown", 2), ("shrunk", 1)])
@pytest.mark.parametrize("stage", STAGES)
def test_at_another_world_size_the_losses_go_on(trainings, name, ranks, stage):
    reference = trainings.losses(1, f"stage {stage}")
    losses = trainings.losses(ranks, f"{name} {stage}")
    assert losses == pytest.approx({step: reference[step] for step in range(21, 51)}, abs=1e-4)


def test_a_run_moves_through_stages_0_3_1_2_and_world_sizes_1_2_1(trainings):
    reference = trainings.losses(1, "stage 0")
    moved = trainings.losses(2, "0 to 3") | trainings.losses(1, "3 to 1") | trainings.losses(1, "1 to 2")
    assert moved == pytest.approx({step: reference[step] for step in range(21, 51)}, abs=1e-4)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_checkpoint_loads_without_deepspeed(trainings, ranks):
    folder = trainings.checkpoint(f"{ranks}-3", 50)
    model, state = load_transformer(folder, torch.device("cpu")), whole_state(folder)
    assert not model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.data.flatten(), state[f"{name}/master"])


@pytest.mark.parametrize("ranks", RANKS)
def test_a_full_disk_on_one_rank_fails_the_save_by_name_and_leaves_the_rest_alone(trainings, ranks):
    training = trainings.by_ranks[ranks]["full disk"]
    assert "step-00000006 could not be saved" in training["refused"]["6"]
    assert f"rank {ranks - 1}: [Errno 27] File too large" in training["refused"]["6"]
    folder = trainings.folder / f"{ranks}-full-disk"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000008"]
    assert all(verify_checkpoint(checkpoint) == [] for checkpoint in list_checkpoints(folder))


@pytest.mark.parametrize("ranks", RANKS)
def test_training_goes_on_unchanged_after_a_save_that_failed(trainings, ranks):
    losses, reference = trainings.losses(ranks, "full disk"), trainings.losses(ranks, f"stage {ranks - 1}")
    assert losses == {step: reference[step] for step in range(1, 13)}


@pytest.mark.parametrize("ranks", RANKS)
def test_the_manifest_names_every_file_and_the_shape(trainings, ranks):
    folder = trainings.checkpoint(f"{ranks}-2", 20)
    manifest = load_checkpoint_manifest(folder)
    assert (manifest.step, manifest.world_size, manifest.zero_stage) == (20, ranks, 2)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest.files) == files - {"manifest.json"}
    shared = {"trainer.json", "model.json", "tokenizer/tokenizer.json"}
    each = {f"state-{rank:05d}-of-{ranks:05d}.safetensors" for rank in range(ranks)}
    each |= {f"random-{rank:05d}.safetensors" for rank in range(ranks)}
    assert shared | each <= set(manifest.files)


def test_what_two_ranks_at_stage_3_saved_computes_the_same_in_transformers(trainings, tmp_path):
    """With a tokenizer of characters, for the one of these trainings has more tokens than their model."""
    characters = tokenizers.Tokenizer(
        models.BPE({chr(i): i for i in range(126)} | {"<end>": 126}, [], unk_token="<end>")
    )
    checkpoint = trainings.checkpoint("2-3", 20)
    weights = CheckpointWeights(checkpoint, shapes_of(MODEL))
    source = Source("two ranks", MODEL, Tokenizer(characters, "<end>"), weights, lineage_of(checkpoint), {})
    record = export_folder(source, tmp_path / "export", "float32", 50_000, "transformers")
    assert record["proof"]["tokens"] == MODEL.maximum_length
    model = load_transformer(checkpoint, torch.device("cpu"))
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    tokens = torch.arange(64).unsqueeze(0)
    with torch.inference_mode():
        torch.testing.assert_close(twin(tokens).logits, model(tokens), atol=1e-4, rtol=0)
