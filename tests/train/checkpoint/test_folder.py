"""Which folders are checkpoints, which of them are whole, and what becomes of the others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import FILES
from commands import flip_a_bit

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash
from train.checkpoint.folder import (
    CheckpointManifest,
    checkpoint_name,
    clear_debris,
    list_checkpoints,
    load_checkpoint_manifest,
    manifest_bytes,
    parse_checkpoint_manifest,
    publish_checkpoint,
    verify_checkpoint,
)
from train.checkpoint.load import StateReader, find_newest_whole, load_transformer
from train.checkpoint.state_file import PieceRange, write_state_file
from train.distributed import World

ALONE = World(0, 0, 1, torch.device("cpu"))


def publish(folder: Path, step: int) -> Path:
    """Publish a checkpoint as two ranks would."""
    final = folder / checkpoint_name(step)
    staged = final.with_name(final.name + ".tmp")
    (staged / "tokenizer").mkdir(parents=True)
    for name in FILES:
        path = staged / name
        if name.startswith("state"):
            rank = int(name[6:11])
            piece = PieceRange("w", "master", 5 * rank, 5 * rank + 5, (2, 5))
            write_state_file(path, [(piece, torch.full((5,), float(step + rank)))])
        else:
            path.write_text(json.dumps({"file": name, "step": step}))
    entries = {n: {"bytes": (staged / n).stat().st_size, "xxh3_128": file_hash(staged / n)} for n in FILES}
    publish_checkpoint(staged, final, CheckpointManifest(1, step, 2, 1, "dataset", "configuration", entries))
    return final


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES: list[Callable[[Path], None]] = [flip_a_bit, cut_short, lengthen, Path.unlink]


def test_a_published_checkpoint_is_whole(tmp_path):
    checkpoint = publish(tmp_path, 10)
    assert verify_checkpoint(checkpoint) == []
    assert find_newest_whole(tmp_path, ALONE).checkpoint == checkpoint
    assert load_checkpoint_manifest(checkpoint).world_size == 2
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=["bit", "short", "long", "missing"])
def test_any_damage_is_named_and_the_next_older_is_taken(tmp_path, name, damage):
    older, newer = publish(tmp_path, 10), publish(tmp_path, 20)
    damage(newer / name)
    found = find_newest_whole(tmp_path, ALONE)
    assert found.checkpoint == older
    [(rejected, problems)] = found.rejected
    assert rejected == newer
    assert len(problems) == 1 and problems[0].startswith(str(newer / name))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut_in_half, Path.unlink, lambda path: path.write_text("{}")])
def test_a_folder_without_a_whole_manifest_is_no_checkpoint(tmp_path, damage):
    older, newer = publish(tmp_path, 10), publish(tmp_path, 20)
    damage(newer / "manifest.json")
    found = find_newest_whole(tmp_path, ALONE)
    assert found.checkpoint == older
    assert str(newer) in found.rejected[0][1][0]


def test_a_bit_flipped_anywhere_in_the_manifest_is_noticed(tmp_path):
    checkpoint = publish(tmp_path, 10)
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        [problem] = verify_checkpoint(checkpoint)
        assert str(path) in problem or "checkpoint format" in problem


def test_when_all_are_damaged_there_is_none_and_each_is_named(tmp_path):
    for step in (10, 20):
        flip_a_bit(publish(tmp_path, step) / "trainer.json")
    found = find_newest_whole(tmp_path, ALONE)
    assert found.checkpoint is None
    assert [path.name for path, _ in found.rejected] == ["step-00000020", "step-00000010"]


def test_ranks_share_the_reading_and_miss_nothing(tmp_path):
    checkpoint = publish(tmp_path, 10)
    for name in FILES:
        flip_a_bit(checkpoint / name)
    parts = [problem for part in range(3) for problem in verify_checkpoint(checkpoint, part, 3)]
    assert sorted(parts) == sorted(verify_checkpoint(checkpoint)) and len(parts) == len(FILES)


def test_debris_and_strangers_are_no_checkpoints(tmp_path):
    publish(tmp_path, 5)
    for name in ("step-00000010.tmp", "step-00000011.removed", "step-12", "latest", "step-0000001x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000013").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_steps_are_in_numerical_order_beyond_eight_digits(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        (tmp_path / checkpoint_name(step)).mkdir()
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [5, 99_999_999, 100_000_000]


def test_debris_is_cleared_and_nothing_else(tmp_path):
    whole = publish(tmp_path, 4)
    for name in ("step-00000005.tmp", "step-00000000.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("written")
    clear_debris(tmp_path)
    assert list(tmp_path.iterdir()) == [whole] and verify_checkpoint(whole) == []


def test_sizes_alone_can_be_looked_at(tmp_path):
    checkpoint = publish(tmp_path, 10)
    flip_a_bit(checkpoint / "model.json")
    assert verify_checkpoint(checkpoint, contents=False) == []
    cut_short(checkpoint / "model.json")
    assert len(verify_checkpoint(checkpoint, contents=False)) == 1


@pytest.mark.parametrize("name", ["../model.json", "/etc/hostname", "tokenizer/../../x", ".", "a//b", "a\nb", ""])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    entry = {"bytes": 1, "xxh3_128": "0" * 32}
    data = manifest_bytes(CheckpointManifest(1, 1, 1, 0, "dataset", "configuration", {name: entry}))
    with pytest.raises(Failure, match="can't be a file of a checkpoint"):
        parse_checkpoint_manifest(data, "somewhere")


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    flip_a_bit(publish(tmp_path, 10) / "trainer.json")
    assert verify_checkpoint(publish(tmp_path, 10)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    checkpoint = publish(tmp_path, 10)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(Failure, match="checkpoint format 2; this version of Headrace reads 1"):
        load_checkpoint_manifest(checkpoint)


def test_ranges_are_put_together_from_all_files(tmp_path):
    reader, out = StateReader(publish(tmp_path, 10)), torch.zeros(6)
    reader.fill("w", "master", (2, 5), 3, out)
    assert out.tolist() == [10, 10, 11, 11, 11, 11]


def test_a_part_that_no_file_holds_is_named(tmp_path):
    checkpoint = publish(tmp_path, 10)
    (checkpoint / "state-00001-of-00002.safetensors").unlink()
    reader = StateReader(checkpoint)
    with pytest.raises(Failure, match="holds 2 of 4 elements of w/master"):
        reader.fill("w", "master", (2, 5), 3, torch.zeros(4))
    with pytest.raises(Failure, match="holds 0 of 1 elements of v/master"):
        reader.fill("v", "master", (2, 5), 0, torch.zeros(1))


def test_another_models_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape("w is (2, 5) there, (5, 2) here")):
        StateReader(publish(tmp_path, 10)).fill("w", "master", (5, 2), 0, torch.zeros(10))


def test_a_damaged_checkpoint_is_never_loaded_for_inference(tmp_path):
    checkpoint = publish(tmp_path, 10)
    flip_a_bit(checkpoint / "state-00000-of-00002.safetensors")
    with pytest.raises(Failure, match=r"state-00000-of-00002\.safetensors is damaged"):
        load_transformer(checkpoint, torch.device("cpu"))
