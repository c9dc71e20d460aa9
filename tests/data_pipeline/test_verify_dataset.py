import json

import numpy as np
import pytest
from generated_corpus import generated_texts, prepare_texts

from data_pipeline.foundation.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.shards import load_index, rebuild_index, write_index
from data_pipeline.verify import verify_dataset


@pytest.fixture
def dataset(tmp_path):
    folder, _ = prepare_texts(tmp_path, generated_texts(120))
    assert verify_dataset(folder) == []
    return folder


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def change_manifest(folder, change):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_flipped_byte_in_a_tar_header_is_named(dataset):
    flip(dataset / "train-000001.tar", 20)
    (problem,) = verify_dataset(dataset)
    assert "train-000001.tar" in problem and "tar header at byte 0" in problem


def test_a_flipped_token_is_named(dataset):
    offset = int(load_index(dataset / "train-000001.idx").token_offsets[0])
    flip(dataset / "train-000001.tar", offset + 10)
    (problem,) = verify_dataset(dataset)
    assert "train-000001.tar" in problem and "tokens that changed" in problem


def test_a_truncated_and_a_missing_shard_are_named(dataset):
    with open(dataset / "train-000000.tar", "r+b") as file:
        file.truncate(5000)
    (dataset / "train-000001.tar").unlink()
    problems = verify_dataset(dataset, repair=True)
    assert len(problems) == 2
    assert "train-000000.tar" in problems[0] and "cut short" in problems[0]
    assert "train-000001.tar: missing" in problems[1]


def test_a_wrong_index_is_named_and_rebuilt(dataset):
    whole = (dataset / "train-000000.idx").read_bytes()
    flip(dataset / "train-000000.idx", -3)
    (dataset / "train-000001.idx").unlink()
    other = rebuild_index(dataset / "train-000000.tar")
    write_index(dataset / "validation-000000.idx", other)
    problems = verify_dataset(dataset)
    assert [name in problem for name, problem in zip(("train-000000", "train-000001", "validation"), problems)] == [
        True
    ] * 3
    assert verify_dataset(dataset, repair=True) == []
    assert verify_dataset(dataset) == []
    assert (dataset / "train-000000.idx").read_bytes() == whole


def test_wrong_counts_in_the_manifest_are_named_and_mended(dataset):
    before = load_manifest(dataset)

    def change(data):
        data["splits"]["train"]["tokens"] += 1
        data["shards"][0]["documents"] -= 1
        data["fingerprint"] = "0" * 32

    change_manifest(dataset, change)
    problems = verify_dataset(dataset)
    assert len(problems) == 3 and all("manifest.json" in problem for problem in problems)
    assert verify_dataset(dataset, repair=True) == []
    assert load_manifest(dataset) == before


@pytest.mark.parametrize("damage", ["lost", "not JSON", '{"format_version": 2}'])
def test_a_lost_manifest_is_rebuilt_from_the_shards(dataset, damage):
    before = load_manifest(dataset)
    (dataset / "manifest.json").unlink()
    if damage != "lost":
        (dataset / "manifest.json").write_text(damage)
    (problem,) = verify_dataset(dataset)
    assert "manifest.json" in problem
    assert verify_dataset(dataset, repair=True) == []
    after = load_manifest(dataset)
    assert (after.fingerprint, after.shards, after.splits) == (before.fingerprint, before.shards, before.splits)
    assert after.sources == before.sources


def test_a_lost_manifest_is_not_rebuilt_around_a_lost_shard(dataset):
    (dataset / "manifest.json").unlink()
    (dataset / "train-000000.tar").unlink()
    (problem,) = verify_dataset(dataset, repair=True)
    assert "train-000000.tar: missing" in problem
    assert not (dataset / "manifest.json").exists()


def test_a_manifest_of_a_newer_version_is_left_alone(dataset):
    change_manifest(dataset, lambda data: data.update(format_version=99))
    before = (dataset / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="format version 99"):
        verify_dataset(dataset, repair=True)
    assert (dataset / "manifest.json").read_bytes() == before


def test_another_tokenizer_and_unlisted_shards_are_named(dataset):
    path = dataset / "tokenizer" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    path.write_text(json.dumps(data))
    (dataset / "train-000050.tar").write_bytes(b"")
    problems = verify_dataset(dataset)
    assert [("train-000050.tar" in problem, "/tokenizer:" in problem) for problem in problems] == [
        (True, False),
        (False, True),
    ]


def test_tokens_outside_the_vocabulary_and_missing_document_ends_are_named(dataset):
    largest = 0
    for record in load_manifest(dataset).shards:
        shard = (dataset / record.name).read_bytes()
        index = load_index(dataset / record.index_name)
        for offset, count in zip(index.token_offsets, index.token_counts):
            largest = max(largest, int(np.frombuffer(shard, index.dtype, int(count), int(offset)).max()))
    change_manifest(dataset, lambda data: data.update(vocabulary_size=largest))
    assert any("not in the vocabulary" in problem for problem in verify_dataset(dataset))
    change_manifest(dataset, lambda data: data.update(vocabulary_size=400, end_of_document=5))
    assert all("end-of-document" in problem for problem in verify_dataset(dataset))


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "train-000000.pyd", "validation-000000.tar"])
def test_a_shard_name_that_leads_elsewhere_is_refused(dataset, name):
    change_manifest(dataset, lambda data: data["shards"][0].update(name=name))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        load_manifest(dataset)


def test_what_is_no_dataset_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no such dataset folder"):
        verify_dataset(tmp_path / "none")
    with pytest.raises(UserError, match="not a dataset"):
        verify_dataset(tmp_path)
