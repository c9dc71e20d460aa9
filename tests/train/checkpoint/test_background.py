"""A checkpoint that is written while training goes on is the one that would have been written at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.checkpoint.folder import list_checkpoints, load_checkpoint_manifest, verify_checkpoint

SHAPES = [(1, 0), (1, 3), (2, 1), (2, 3)]


def files(checkpoint: Path) -> dict[str, bytes]:
    paths = (path for path in checkpoint.rglob("*") if path.is_file())
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(("ranks", "stage"), SHAPES)
def test_every_byte_is_the_same_as_of_a_save_at_once(saves, ranks, stage):
    for step in (4, 8, 12):
        at_once, background = (
            files(saves.checkpoint(f"{ranks}-{stage}-{way}", step)) for way in ("at-once", "background")
        )
        assert background == at_once and f"state-{ranks - 1:05d}-of-{ranks:05d}.safetensors" in at_once


@pytest.mark.parametrize(("ranks", "stage"), SHAPES)
def test_it_is_published_while_training_goes_on_and_the_last_one_at_the_end(saves, ranks, stage):
    published = saves.by_ranks[ranks][f"stage {stage}"]["published"]
    assert sorted(published.values()) == [f"step-{step:08d}" for step in (4, 8, 12)]
    assert published["end"] == "step-00000012"
    assert set(published) - {"end"} <= {str(step) for step in range(5, 12)}


@pytest.mark.parametrize(("ranks", "stage"), SHAPES)
def test_a_disk_that_fills_up_in_the_background_is_told_and_leaves_the_rest_alone(saves, ranks, stage):
    message = saves.by_ranks[ranks][f"stage {stage}"]["background_refused"]["10"]
    assert "checkpoint step-00000010 could not be saved" in message
    assert f"rank {ranks - 1}: [Errno 27] File too large" in message
    folder = saves.folder / f"{ranks}-{stage}-background"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:08d}" for step in (4, 8, 12)]
    assert all(verify_checkpoint(checkpoint) == [] for checkpoint in list_checkpoints(folder))


def test_a_run_that_breaks_off_publishes_what_every_rank_has_written_and_waits_for_no_rank_that_is_gone(saves):
    assert saves.by_ranks[2]["broken off"]["broken off"] == ["", "step-00000004"]
    assert sorted(path.name for path in (saves.folder / "broken-off").iterdir()) == ["step-00000004"]
    checkpoint = saves.checkpoint("broken-off", 4)
    assert verify_checkpoint(checkpoint) == []
    assert set(files(checkpoint)) == {"manifest.json", *load_checkpoint_manifest(checkpoint).files}


def test_losses_are_the_same_whichever_way_and_wherever_is_saved(saves):
    one, two = saves.losses(1, "stage 0"), saves.losses(2, "stage 1")
    assert one == pytest.approx(two, abs=1e-4) and sorted(one) == list(range(1, 13))
    assert {step: loss for step, loss in one.items() if step <= 6} == saves.losses(1, "0"), "of a run that saves once"


@pytest.mark.parametrize("moved", ["1_offload to 3_offload", "3_offload to 0", "0 to 1_offload"])
def test_state_moves_into_and_out_of_host_memory(saves, moved):
    reference = saves.losses(1, "stage 0")
    assert saves.losses(1, moved) == pytest.approx({step: reference[step] for step in range(7, 13)}, abs=1e-4)


def test_offloaded_state_of_one_process_goes_on_in_two(saves):
    reference = saves.losses(1, "stage 0")
    assert saves.losses(2, "two from one") == pytest.approx({s: reference[s] for s in range(7, 13)}, abs=1e-4)


def test_state_moves_between_float32_and_bfloat16(saves):
    reference = saves.losses(1, "stage 0")
    begun = saves.losses(1, "bf16")
    assert begun == pytest.approx({step: reference[step] for step in range(1, 7)}, rel=0.02)
    for moved in ("bf16 to 0", "0 to bf16"):
        assert saves.losses(1, moved) == pytest.approx({step: reference[step] for step in range(7, 13)}, rel=0.02)
