import io
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.foundation.errors import Failure
from data_pipeline.foundation.files import file_hash
from data_pipeline.shards import Block, load_index, read_provenance, rebuild_index, write_index, write_shard


def blocks(dtype="uint16"):
    chance = np.random.default_rng(0)
    for size in (700, 1, 3000):
        ends = np.unique(np.append(chance.integers(1, size + 1, 5), size))
        yield Block(chance.integers(0, 60_000, size).astype(dtype), ends.astype(np.uint32))


@pytest.fixture
def shard(tmp_path):
    record = write_shard(tmp_path, "train", 0, "web", blocks())
    return tmp_path / record.name


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_the_index_maps_every_token_and_document(tmp_path, dtype):
    record = write_shard(tmp_path, "train", 7, "web", blocks(dtype))
    index = load_index(tmp_path / "train-000007.idx")
    assert (record.name, record.split, record.blocks, record.tokens) == ("train-000007.tar", "train", 3, 3701)
    mapped = np.memmap(tmp_path / record.name, np.uint8, "r")
    documents = np.split(index.document_ends, np.cumsum(index.document_counts)[:-1])
    for block, offset, count, ends in zip(blocks(dtype), index.token_offsets, index.token_counts, documents):
        assert offset % 64 == 0
        stored = mapped[offset : offset + count * np.dtype(dtype).itemsize].view(dtype)
        np.testing.assert_array_equal(stored, block.tokens)
        np.testing.assert_array_equal(ends, block.ends)


def test_where_documents_came_from_is_kept_when_asked(tmp_path):
    texts = [Block(block.tokens, block.ends, [f"à/{n}.txt:1" for n in range(len(block.ends))]) for block in blocks()]
    write_shard(tmp_path, "train", 0, "web", texts)
    write_shard(tmp_path, "train", 1, "web", blocks())
    path = tmp_path / "train-000000.tar"
    index = load_index(path.with_suffix(".idx"))
    assert index.same_as(rebuild_index(path))
    assert [read_provenance(path, index, number) for number in range(3)] == [block.keys for block in texts]
    bare = tmp_path / "train-000001.tar"
    assert read_provenance(bare, load_index(bare.with_suffix(".idx")), 0) is None
    assert webdataset_members(path) == {"ends.npy", "json", "tokens.npy"}


def webdataset_members(path):
    import webdataset

    samples = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert len(samples) == 3
    return {name for sample in samples for name in sample if not name.startswith("__")}


def test_the_source_can_be_read_from_the_tar_alone(shard):
    assert rebuild_index(shard).source == load_index(shard.with_suffix(".idx")).source == "web"
    with tarfile.open(shard) as archive:
        assert {member.uname for member in archive} == {"web"}


@pytest.mark.parametrize("source", ["", "../web", "a b", "x" * 32, "quelle-ü"])
def test_what_can_not_be_the_name_of_a_source_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="can't be the name of a source"):
        write_shard(tmp_path, "train", 0, source, blocks())


def test_the_record_has_the_hashes_of_the_files(tmp_path):
    record = write_shard(tmp_path, "train", 0, "web", blocks())
    for name, digest, size in (
        (record.name, record.xxh3_128, record.bytes),
        (record.index_name, record.index_xxh3_128, record.index_bytes),
    ):
        assert (file_hash(tmp_path / name), (tmp_path / name).stat().st_size) == (digest, size)


def test_the_same_blocks_give_the_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name, "train", 0, "web", blocks())
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_the_index_can_be_rebuilt_from_the_tar_alone(shard):
    index_path = shard.with_suffix(".idx")
    before = index_path.read_bytes()
    index_path.unlink()
    write_index(index_path, rebuild_index(shard))
    assert index_path.read_bytes() == before


def test_any_flipped_byte_of_any_header_is_found(shard):
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        headers = [member.offset for member in archive]
    chance = np.random.default_rng(1)
    for header in headers:
        for position in chance.integers(0, 512 + 128, 40):  # of tar and npy
            damaged = bytearray(whole)
            damaged[header + position] ^= 1 << int(chance.integers(8))
            shard.write_bytes(damaged)
            with pytest.raises(Failure, match=r"train-000000\.tar: the shard is damaged"):
                rebuild_index(shard)


@pytest.mark.parametrize("left", [0, 100, 512, 3000, -1, -600, -10_000])
def test_a_shard_that_is_cut_short_is_found(shard, left):
    size = shard.stat().st_size
    os.truncate(shard, left if left >= 0 else max(1, size + left))
    if left == -1 or left == -600:
        # Only padding behind the end mark is gone: no token is lost, and the checksum in the manifest tells.
        try:
            rebuild_index(shard)
        except Failure as failure:
            assert "cut short" in str(failure)
        return
    with pytest.raises(Failure, match="cut short"):
        rebuild_index(shard)


def add_member(shard, name, data=b"", **fields):
    with tarfile.open(shard, "a", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("00000003.pyd", {}),
        ("00000003.tokens.pth", {}),
        ("../00000003.ends.npy", {}),
        ("folder/00000003.ends.npy", {}),
        ("00000003.ends.npy", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("00000003.ends.npy", {"type": tarfile.DIRTYPE}),
        ("00000009.ends.npy", {}),
        ("00000003.ends.npy", {}),
        ("00000002.json", {}),
    ],
)
def test_members_that_we_did_not_write_are_refused(shard, name, fields):
    add_member(shard, name, **fields)
    with pytest.raises(Failure, match="the shard is damaged"):
        rebuild_index(shard)


def test_ends_that_do_not_divide_the_block_are_refused(tmp_path):
    tokens = np.arange(10, dtype=np.uint16)
    for ends in ([], [9], [0, 10], [5, 5, 10], [7, 3, 10]):
        with pytest.raises(ValueError, match="document ends"):
            write_shard(tmp_path, "train", 0, "web", [Block(tokens, np.array(ends, np.uint32))])


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_index_is_never_a_crash(tmp_path_factory, position, bit, cut):
    folder = tmp_path_factory.mktemp("index")
    write_shard(folder, "train", 0, "web", blocks())
    path = folder / "train-000000.idx"
    damaged = bytearray(path.read_bytes())
    position %= len(damaged)
    damaged[position] ^= 1 << bit
    path.write_bytes(damaged[:position] if cut else damaged)
    try:
        index = load_index(path)
    except Failure as failure:
        assert "train-000000.idx" in str(failure)
    else:
        assert index.document_counts.sum() == len(index.document_ends)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(Failure, match=r"none\.idx"):
        load_index(tmp_path / "none.idx")
