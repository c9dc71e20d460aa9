"""The state file: by parameter, readable by any safetensors reader, any range of it at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import python, run_command

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import file_hash
from train.checkpoint.folder import FORMAT_VERSION, MANIFEST, CheckpointManifest, manifest_bytes
from train.checkpoint.load import StateReader
from train.checkpoint.state_file import MASTER, PieceRange, StateFile, write_state_file

WEIGHT = torch.arange(24, dtype=torch.float32).reshape(4, 6)
PIECES = [
    (PieceRange("blocks.0.up.weight", MASTER, 6, 18, (4, 6)), WEIGHT.flatten()[6:18]),
    (PieceRange("blocks.0.up.weight", "exp_avg", 6, 18, (4, 6)), -WEIGHT.flatten()[6:18]),
    (PieceRange("norm.weight", MASTER, 0, 3, (3,)), torch.tensor([0.5, float("inf"), 1e-40])),
]


def test_any_safetensors_reader_opens_it(tmp_path):
    path = tmp_path / "state.safetensors"
    size, digest = write_state_file(path, PIECES)
    assert (size, digest) == (path.stat().st_size, file_hash(path))
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == {"blocks.0.up.weight/master", "blocks.0.up.weight/exp_avg", "norm.weight/master"}
    for piece, values in PIECES:
        assert tensors[piece.key].dtype == torch.float32 and torch.equal(tensors[piece.key], values)


def test_the_global_ranges_are_in_the_header(tmp_path):
    write_state_file(tmp_path / "state.safetensors", PIECES)
    assert StateFile(tmp_path / "state.safetensors").pieces == [piece for piece, _ in PIECES]


@pytest.mark.parametrize(("start", "stop"), [(6, 18), (6, 7), (17, 18), (9, 14)])
def test_any_range_within_a_piece_can_be_read(tmp_path, start, stop):
    write_state_file(tmp_path / "state.safetensors", PIECES)
    file = StateFile(tmp_path / "state.safetensors")
    assert torch.equal(file.read(file.pieces[1], start, stop), -WEIGHT.flatten()[start:stop])


def test_views_and_other_formats_are_written_as_float32(tmp_path):
    path = tmp_path / "state.safetensors"
    strided = WEIGHT.t().to(torch.bfloat16).requires_grad_()[:, 1]
    write_state_file(path, [(PieceRange("w", MASTER, 0, 6, (6,)), strided)])
    assert torch.equal(safetensors.torch.load_file(path)["w/master"], WEIGHT[1])


def test_a_rank_that_holds_nothing_writes_an_empty_file(tmp_path):
    write_state_file(tmp_path / "state.safetensors", [])
    assert StateFile(tmp_path / "state.safetensors").pieces == []


def test_values_that_do_not_fill_their_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"norm.weight/master: 2 values for a range of 3"):
        write_state_file(tmp_path / "state.safetensors", [(PIECES[2][0], torch.zeros(2))])


def columns_apart(folder: Path, *cuts: tuple[int, int], matrix: torch.Tensor = WEIGHT) -> Path:
    """Write a checkpoint of a matrix whose columns lie in a file each."""
    files = {}
    for rank, (first, last) in enumerate(cuts):
        block, name = matrix[:, first:last].flatten(), f"state-{rank:05d}-of-{len(cuts):05d}.safetensors"
        piece = PieceRange("w", MASTER, 0, len(block), tuple(matrix.shape), (first, last))
        size, digest = write_state_file(folder / name, [(piece, block)])
        files[name] = {"bytes": size, "xxh3_128": digest}
    manifest = CheckpointManifest(FORMAT_VERSION, 1, len(cuts), 0, "dataset", "settings", files)
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))
    return folder


@pytest.mark.parametrize("cuts", [((0, 3), (3, 6)), ((0, 2), (2, 4), (4, 6)), ((0, 6),)])
@pytest.mark.parametrize("asked", [None, (0, 3), (3, 6), (2, 4)])
def test_any_range_of_any_columns_is_read_from_columns_that_lie_apart(tmp_path, cuts, asked):
    reader = StateReader(columns_apart(tmp_path, *cuts))
    expected = (WEIGHT if asked is None else WEIGHT[:, slice(*asked)]).flatten()
    for start in range(len(expected)):
        for stop in range(start + 1, len(expected) + 1):
            out = torch.full((stop - start,), -1.0)
            reader.fill("w", MASTER, (4, 6), start, out, asked)
            assert torch.equal(out, expected[start:stop])


def test_columns_that_are_missing_or_that_no_matrix_has_are_named(tmp_path):
    reader = StateReader(columns_apart(tmp_path, (0, 2), (4, 6)))
    for asked in (None, (0, 3)):
        with pytest.raises(Failure, match=r"holds the columns \[\(0, 2\), \(4, 6\)\] of 6 of w/master"):
            reader.fill("w", MASTER, (4, 6), 0, torch.zeros(4), asked)
    piece = PieceRange("w", MASTER, 0, 8, (4, 6), (5, 7))
    write_state_file(tmp_path / "wrong.safetensors", [(piece, torch.zeros(8))])
    with pytest.raises(Failure, match=r"w/master is of columns \(5, 7\), which \(4, 6\) hasn't"):
        StateFile(tmp_path / "wrong.safetensors")


READING = """
import re, resource, sys
from pathlib import Path
import torch
from train.checkpoint.load import StateReader
elements, out, reader = int(sys.argv[1]), torch.ones(int(sys.argv[1]) // 2), StateReader(Path("."))
held = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (held + 48_000_000, held + 48_000_000))
reader.fill("w", "master", (elements,), elements // 4, out)
assert not out.any()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process can't be held to an amount of memory")
def test_a_large_range_is_read_in_little_memory_beside_its_own(tmp_path):
    elements = 1 << 26
    values = torch.zeros(1).expand(elements)
    piece = PieceRange("w", MASTER, 0, elements, (elements,))
    name = "state-00000-of-00001.safetensors"
    size, digest = write_state_file(tmp_path / name, [(piece, values)])
    files = {name: {"bytes": size, "xxh3_128": digest}}
    manifest = CheckpointManifest(FORMAT_VERSION, 1, 1, 0, "dataset", "settings", files)
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(manifest))
    done = run_command(python("-c", READING, str(elements)), tmp_path)
    assert done.code == 0, done.err
