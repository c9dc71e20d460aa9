import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import folder_bytes
from generated_corpus import configuration, generated_texts, prepare_texts, write_json_lines

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.preparation.workplace import workplace
from data_pipeline.prepare import main, prepare
from data_pipeline.shards import load_index
from data_pipeline.tokenization.encoding import FastEncoder, split_of
from data_pipeline.tokenization.tokenizer import load_tokenizer


def stored_texts(folder: Path) -> dict[str, list[str]]:
    """Read every document back through the index alone."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    texts: dict[str, list[str]] = {"train": [], "validation": []}
    for record in load_manifest(folder).shards:
        index = load_index(folder / record.index_name)
        shard = (folder / record.name).read_bytes()
        document = 0
        for offset, tokens, documents in zip(index.token_offsets, index.token_counts, index.document_counts):
            block = np.frombuffer(shard, index.dtype, int(tokens), int(offset))
            start = 0
            for end in index.document_ends[document : document + documents]:
                assert block[end - 1] == tokenizer.end_of_document
                texts[record.split].append(tokenizer.decode(block[start : end - 1]))
                start = end
            document += documents
    return texts


def all_texts(folder: Path) -> list[str]:
    return [text for texts in stored_texts(folder).values() for text in texts]


def test_every_text_comes_back_once_in_its_split_and_shuffled(tmp_path):
    texts = generated_texts(300)
    folder, manifest = prepare_texts(tmp_path, texts)
    stored = stored_texts(folder)
    for split in ("train", "validation"):
        expected = [text for text in texts if split_of(text.encode(), 0.1) == split]
        assert sorted(stored[split]) == sorted(expected) and stored[split] != expected
        assert abs(np.corrcoef([texts.index(text) for text in stored[split]], range(len(expected)))[0, 1]) < 0.3
    assert sum(counts.bytes for counts in manifest.splits.values()) == sum(len(text.encode()) for text in texts)
    assert len(manifest.shards) > 3


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    texts = generated_texts(12_000)
    results = []
    for workers in (1, 2, 3):
        folder, _ = prepare_texts(
            tmp_path, texts, f"workers={workers}", "shard_tokens=200000", output=f"with-{workers}"
        )
        results.append(folder_bytes(folder))
    assert len(results[0]) > 6
    assert results[0] == results[1] == results[2]


def test_python_docs_are_the_same_with_one_worker_and_two(tmp_path):
    results = []
    for workers in (1, 2):
        prepare(
            configuration(
                f"output='{tmp_path / str(workers)}'",
                "corpus.packages=[]",
                "corpus.maximum_bytes=600000",
                "tokenizer.vocabulary_size=500",
                "validation_fraction=0.1",
                f"workers={workers}",
            )
        )
        results.append(folder_bytes(tmp_path / str(workers)))
    assert results[0] == results[1]


def test_plain_webdataset_reads_all_tokens(tmp_path):
    import webdataset

    folder, manifest = prepare_texts(tmp_path, generated_texts(200))
    for split, counts in manifest.splits.items():
        urls = [str(folder / record.name) for record in manifest.shards if record.split == split]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
        assert len(samples) == counts.blocks
        assert sum(len(sample["tokens.npy"]) for sample in samples) == counts.tokens
        assert sum(len(sample["ends.npy"]) for sample in samples) == counts.documents
        assert all(sample["ends.npy"][-1] == len(sample["tokens.npy"]) for sample in samples)
        assert {sample["tokens.npy"].dtype.name for sample in samples} == {manifest.dtype} == {"uint16"}


def test_a_document_never_changes_its_split(tmp_path):
    texts = generated_texts(300)
    before = stored_texts(prepare_texts(tmp_path, texts, output="before")[0])
    more = generated_texts(200, seed=1) + texts
    random.Random(2).shuffle(more)
    after = stored_texts(prepare_texts(tmp_path, more, output="after")[0])
    assert set(before["validation"]) <= set(after["validation"])
    assert set(before["train"]) <= set(after["train"])


def test_a_document_longer_than_a_block_is_a_block_of_its_own(tmp_path):
    long = "A very long text. " * 5000
    texts = [*generated_texts(100), long]
    folder, manifest = prepare_texts(tmp_path, texts, "validation_fraction=0.3")
    sizes = np.concatenate([load_index(folder / record.index_name).token_counts for record in manifest.shards])
    assert (sizes > 500).sum() == 1
    assert long in all_texts(folder)


def test_a_forged_end_of_document_stays_text(tmp_path):
    texts = [text + " <|endoftext|> tail" for text in generated_texts(100)]
    folder, manifest = prepare_texts(tmp_path, texts)
    assert sorted(all_texts(folder)) == sorted(texts)
    assert sum(counts.documents for counts in manifest.splits.values()) == 100


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    texts = generated_texts(200)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    _, here = prepare_texts(tmp_path / "here", texts)
    _, there = prepare_texts(tmp_path / "there", texts)
    _, other = prepare_texts(tmp_path / "there", texts[:-1], output="other")
    assert here.fingerprint == there.fingerprint != other.fingerprint


def test_started_again_it_finds_its_own_dataset(tmp_path):
    texts = generated_texts(100)
    folder, first = prepare_texts(tmp_path, texts)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert prepare_texts(tmp_path, texts)[1] == first == load_manifest(folder)
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_another_dataset_is_replaced_only_when_told_so(tmp_path):
    folder, first = prepare_texts(tmp_path, generated_texts(100))
    with pytest.raises(UserError, match=r"another inputs.*overwrite=true"):
        prepare_texts(tmp_path, generated_texts(100, seed=1))
    with pytest.raises(UserError, match="another block_tokens"):
        prepare_texts(tmp_path, generated_texts(100), "block_tokens=300")
    assert load_manifest(folder) == first
    _, second = prepare_texts(tmp_path, generated_texts(100, seed=1), "overwrite=true")
    assert load_manifest(folder) == second != first
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "dataset"}


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "thesis.tex").write_text("all my work")
    with pytest.raises(UserError, match="not a dataset"):
        prepare_texts(tmp_path, generated_texts(100), "overwrite=true")
    assert (tmp_path / "dataset" / "thesis.tex").read_text() == "all my work"


def test_a_damaged_dataset_is_not_taken_for_complete(tmp_path):
    folder, manifest = prepare_texts(tmp_path, generated_texts(100))
    (folder / manifest.shards[0].name).unlink()
    with pytest.raises(UserError, match=r"damaged \(train-000000.tar\)"):
        prepare_texts(tmp_path, generated_texts(100))


def test_what_another_preparation_left_is_cleared(tmp_path):
    (tmp_path / "dataset.tmp").mkdir()
    (tmp_path / "dataset.tmp" / "dataset").mkdir()
    (tmp_path / "dataset.tmp" / "dataset" / "train-000099.tar").write_bytes(b"half")
    folder, _ = prepare_texts(tmp_path, generated_texts(100))
    assert not (folder / "train-000099.tar").exists() and not (tmp_path / "dataset.tmp").exists()


def test_a_full_disk_is_said_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    texts = generated_texts(100)
    expected, _ = prepare_texts(tmp_path, texts, output="undisturbed")
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.preparation.assemble.write_shard", full)
        with pytest.raises(Failure, match=r"can't be written: No space left on device.*the same command goes on"):
            prepare_texts(tmp_path, texts)
    assert not (tmp_path / "dataset").exists()
    capsys.readouterr()
    folder, _ = prepare_texts(tmp_path, texts)
    assert "going on with what an earlier try left" in (said := capsys.readouterr().err) and "trained" not in said
    assert folder_bytes(folder) == folder_bytes(expected)
    assert not (tmp_path / "dataset.tmp").exists()


def test_a_mistake_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.jsonl").write_text("no json\n")
    with pytest.raises(UserError):
        prepare(configuration("corpus=files", f"corpus.paths=['{tmp_path}/a.jsonl']", f"output={tmp_path}/dataset"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_two_preparations_of_one_dataset_do_not_meet(tmp_path):
    with workplace(tmp_path / "dataset", {}), pytest.raises(UserError, match="being prepared by another process"):
        prepare_texts(tmp_path, generated_texts(100))


def test_a_file_in_the_way_of_the_folder_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the folder can't be made: Not a directory"):
        prepare_texts(tmp_path, generated_texts(100), output="file/dataset")


def test_differing_encoders_fall_back_to_the_reference_for_everything(tmp_path, monkeypatch, capsys):
    texts = ["[/markup] " + text for text in generated_texts(200)]
    expected, _ = prepare_texts(tmp_path, texts, output="undisturbed")
    honest = FastEncoder._encode
    monkeypatch.setattr(FastEncoder, "_encode", lambda self, texts: [ids[::-1] for ids in honest(self, texts)])
    monkeypatch.setattr("data_pipeline.preparation.encode.why_not_fast", lambda tokenizer, texts: None)
    folder, _ = prepare_texts(tmp_path, texts, output="disturbed")
    assert "all is encoded again" in capsys.readouterr().err
    assert folder_bytes(folder) == folder_bytes(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["validation_fraction=0"], "validation_fraction=0.0 must lie between"),
        (["workers=0"], "workers=0 must be at least 1"),
        (["tokenizer.training_bytes=5"], "training_bytes=5 must be at least"),
        (["block_tokens=0"], "block_tokens=0 must be at least 1"),
        (["tokenizer.vocabulary_size=10"], "bytes and special tokens alone take 257"),
        (["validation_fraction=0.000001"], "none is in the validation split"),
        (["corpus=flies"], "has no option `flies`"),
        (["corpus.pathes=[a]"], "unknown key `corpus.pathes`"),
    ],
)
def test_unusable_settings_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        prepare_texts(tmp_path, generated_texts(50), *overrides)
    assert not (tmp_path / "dataset").exists()


def test_required_settings_are_named():
    with pytest.raises(UserError, match="`output` is required"):
        configuration()
    with pytest.raises(UserError, match=r"`tokenizer\.path` is required"):
        configuration("output=x", "tokenizer=file")


def test_a_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="the corpus has no text"):
        prepare_texts(tmp_path, ["", "  \n"])


def test_the_command_tells_results_on_standard_output_alone(tmp_path):
    corpus = write_json_lines(tmp_path / "corpus.jsonl", generated_texts(100))
    command = [
        *(sys.executable, "-m", "data_pipeline.prepare", "corpus=files", f"corpus.paths=['{corpus}']"),
        *(f"output={tmp_path / 'dataset'}", "tokenizer.vocabulary_size=300", "validation_fraction=0.2", "workers=2"),
    ]
    dry = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
    assert "1 files" in dry.stdout and not (tmp_path / "dataset").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["fingerprint"] == load_manifest(tmp_path / "dataset").fingerprint
    assert "bytes/token" in done.stderr and "MB/s" in done.stderr


def test_a_mistake_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["corpus=files", f"corpus.paths=['{tmp_path}/none/*.txt']", f"output={tmp_path / 'dataset'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no file matches" in error
