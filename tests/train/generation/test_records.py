"""Records are the same whatever kind of file they come from."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from data_pipeline.foundation.errors import UserError
from train.generation.records import read_records

RECORDS = [{"text": 'one, "two"', "label": "1"}, {"text": "naïve 東京\u2028x", "label": "0"}]


def write(folder, name: str) -> None:
    if ".csv" in name:
        with open(folder / "plain", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(RECORDS)
        content = (folder / "plain").read_bytes()
    elif ".tsv" in name:
        content = "".join(f"{each['text']}\t{each['label']}\n" for each in RECORDS).encode()
    elif ".jsonl" in name or "lines" in name:
        content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS).encode()
    else:
        content = json.dumps(RECORDS, indent=1).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "lines.json", "a.csv", "a.tsv", "a.tsv.gz"])
def test_records_of_every_format_are_the_same(tmp_path, name):
    write(tmp_path, name)
    columns = ["text", "label"] if ".tsv" in name else []
    assert read_records(name, tmp_path, columns, None) == RECORDS
    assert read_records(name, tmp_path, columns, 1) == RECORDS[:1]


def test_parallel_files_become_records_line_by_line(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n"))
    found = read_records({"en": "a.en", "de": "a.de.gz"}, tmp_path, [], None)
    assert found == [{"en": "one", "de": "eins"}, {"en": "two", "de": "zwei"}]
    (tmp_path / "a.en").write_text("one\n")
    with pytest.raises(UserError, match="parallel files"):
        read_records({"en": "a.en", "de": "a.de.gz"}, tmp_path, [], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "a.jsonl: "), ("a.jsonl", b"3\n", "holds no records"), ("a.jsonl", b"", "holds no records"),
        ("a.txt", b"x", "records are read from"), ("a.json", b"\xff", "not UTF-8"), ("a.jsonl.gz", b"x", "a.jsonl.gz"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_records_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_records(name, tmp_path, [], None)
