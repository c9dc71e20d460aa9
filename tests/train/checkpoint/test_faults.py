"""Every fault of a disk is noticed, named, and survived: by the newest good checkpoint, or by a clear stop.

`make soak` flips 5000 bits of each kind of file instead of 200.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import FILES, flip, publish
from commands import clean_environment
from soak import examples, note

from train.checkpoint.folder import verify_checkpoint
from train.checkpoint.load import find_newest_whole
from train.distributed import World

ALONE = World(0, 0, 1, torch.device("cpu"))
KINDS = ["state-00001-of-00002.safetensors", "random-00000.safetensors", "trainer.json", "model.json"]
KINDS += ["tokenizer/tokenizer.json", "manifest.json"]


def assert_named_and_survived(damaged: Path, older: Path, name: str) -> None:
    found = find_newest_whole(damaged.parent, ALONE)
    assert found.checkpoint == older
    [(rejected, [problem])] = found.rejected
    assert rejected == damaged
    # A flipped bit can make another format's number of the manifest's, or another file's name of one in it.
    assert str(damaged / name) in problem or (name == "manifest.json" and str(damaged) in problem)


def note_fault(name: str, fault: str, tried: int) -> None:
    note("Faults of storage", of=name, fault=fault, tried=tried, outcome="named, the checkpoint before it used")


@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_noticed(tmp_path, name):
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    whole = (newer / name).read_bytes()
    bits = random.Random(name).choices(range(8 * len(whole)), k=examples(200))
    for bit in bits:
        flip(newer / name, bit)
        assert_named_and_survived(newer, older, name)
        (newer / name).write_bytes(whole)
    assert verify_checkpoint(newer) == []
    note_fault(name, "a flipped bit", len(bits))


@pytest.mark.parametrize("name", KINDS)
def test_every_cut_and_every_hole_is_noticed(tmp_path, name):
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    whole, tried = (newer / name).read_bytes(), 1
    chance = random.Random(name)
    for at in [0, len(whole) - 1, *chance.choices(range(len(whole)), k=examples(20))]:
        end = max(at + 1, chance.randrange(len(whole) + 1))
        # What a torn write leaves: the beginning alone, zeros to the end, zeros in the middle.
        holes = [whole[:at], whole[:at] + bytes(len(whole) - at), whole[:at] + bytes(end - at) + whole[end:]]
        for content in holes:
            if content != whole:
                (newer / name).write_bytes(content)
                tried += 1
                assert_named_and_survived(newer, older, name)
    (newer / name).unlink()
    assert_named_and_survived(newer, older, name)
    note_fault(name, "cut short, zeros, missing", tried)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_a_dead_link_in_a_files_place_is_no_file(tmp_path, name):
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    (newer / name).unlink()
    (newer / name).mkdir()
    assert_named_and_survived(newer, older, name)
    (newer / name).rmdir()
    (newer / name).symlink_to("nowhere")
    assert_named_and_survived(newer, older, name)


@pytest.fixture(scope="module")
def small_disk(small_dataset, tmp_path_factory):
    """What saves on a disk of 3 MB of their own came to; see `small_disk.py`."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a small disk can be mounted by root on Linux alone")
    folder = tmp_path_factory.mktemp("small-disk")
    shutil.copytree(small_dataset / "tokenizer", folder / "tokenizer")
    (folder / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=3m none {folder}/disk"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    script = f'{mount} && exec "$@"'
    command = [sys.executable, str(Path(__file__).with_name("small_disk.py")), str(folder), str(examples(1))]
    shell = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, env=clean_environment(), timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


def test_without_room_a_save_is_refused_before_a_byte_and_with_just_enough_it_is_made(small_disk):
    needed = small_disk["needed"]
    assert small_disk["room"][-1] == [needed, None], "exactly as much as it asks for is enough"
    assert len(small_disk["room"]) > 10
    for free, message in small_disk["room"][:-1]:
        assert free < needed
        assert f"it needs {needed:,} bytes, and {free:,} are free on the file system of" in message
        assert "checkpoint step-00000002 could not be saved" in message
        assert "earlier checkpoints are untouched" in message
    assert small_disk["written while refused"] == 0
    tried, fault = len(small_disk["room"]) - 1, "too little room"
    note("Faults of storage", of="a save", fault=fault, tried=tried, outcome="refused before its first byte")


def test_a_disk_that_fills_up_at_any_write_is_named_and_leaves_nothing(small_disk):
    assert len(small_disk["filled"]) > 10
    for free, message, left in small_disk["filled"]:
        assert free < small_disk["needed"]
        assert "No space left on device" in message and "step-00000002 could not be saved" in message
        assert left == ["step-00000001"]
    assert small_disk["problems"] == []
    tried, fault = len(small_disk["filled"]), "the disk fills up on the way"
    note("Faults of storage", of="a save", fault=fault, tried=tried, outcome="named, earlier checkpoints untouched")


def test_a_read_only_folder_is_named(small_disk):
    assert "checkpoint step-00000002 could not be saved" in small_disk["read-only"]
    assert "Read-only file system" in small_disk["read-only"]
