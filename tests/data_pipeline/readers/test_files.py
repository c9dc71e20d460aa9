import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from bad_files import by_name
from generated_corpus import generated_texts

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document, Unreadable
from data_pipeline.readers.files import FilesConfig

TEXTS = generated_texts(20)
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def items(*paths, **settings) -> list[Document | Unreadable]:
    corpus = open_corpus(FilesConfig([str(path) for path in paths], **settings))
    return [item for unit in corpus.units() for item in corpus.read(unit)]


def read(*paths, **settings) -> list[str]:
    return [item.text for item in items(*paths, **settings) if isinstance(item, Document)]


def left_out(*paths, **settings) -> Counter[str]:
    return Counter(item.reason for item in items(*paths, **settings) if isinstance(item, Unreadable))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", zstandard.compress(LINES)),
        ("two-members.jsonl.gz", gzip.compress(LINES[:500]) + gzip.compress(LINES[500:])),
        ("two-frames.jsonl.zst", zstandard.compress(LINES[:500]) + zstandard.compress(LINES[500:])),
        ("blank-lines.jsonl", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\n\n")),
    ],
    ids=by_name,
)
def test_json_lines_are_read_plain_and_compressed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXTS


def test_parquet_is_read(tmp_path):
    parquet.write_table(pa.table({"id": range(20), "body": TEXTS}), tmp_path / "a.parquet", row_group_size=7)
    assert read(tmp_path / "a.parquet", text_field="body") == TEXTS


def test_a_text_file_is_one_document_unless_a_separator_divides_it(tmp_path):
    whole = "\n\n".join(TEXTS)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(whole.encode()))
    (tmp_path / "b.md").write_text("# Title\r\n", newline="")
    assert read(tmp_path / "a.txt.gz", tmp_path / "b.md") == [whole, "# Title\r\n"]
    assert read(tmp_path / "a.txt.gz", separator="\\n\\n") == whole.split("\n\n")


def test_patterns_keep_their_order_and_no_file_is_read_twice(tmp_path):
    for name in ("c", "a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path / "b.txt", tmp_path / "*.txt") == ["b", "a", "c"]


def test_empty_documents_are_dropped_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n{"text": "x"}\n{"text": ""}\n')
    assert read(tmp_path / "a.jsonl") == ["x"]
    assert left_out(tmp_path / "a.jsonl") == {"empty": 2}


BAD = [
    (b'{"text": "good"}\n{"text": \n', r"a\.jsonl:2: not a line of JSON"),
    (b'{"text": "good"}\n["text"]\n', r"a\.jsonl:2: .*holds a list, not an object"),
    (b'{"text": "good"}\n{"body": "x"}\n', r"a\.jsonl:2: .*no field `text` among body; .*corpus\.text_field"),
    (b'{"text": "good"}\n{"text": 3}\n', r"a\.jsonl:2: .*`text` is a int"),
    (b'{"text": "good"}\n{"text": "\xff"}\n', r"a\.jsonl:2: invalid UTF-8 \(byte 0xff"),
    (b'{"text": "good"}\n{"text": "\\ud800"}\n', r"a\.jsonl:2: .*surrogate"),
    (b'{"text": "good"}\n' + b"[" * 100_000 + b"\n", r"a\.jsonl:2: not a line of JSON"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)
    assert read(path, skip_invalid=True) == ["good"]
    assert left_out(path, skip_invalid=True).total() == 1


def test_invalid_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt: invalid UTF-8 \(byte 0xe9"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_compressed_file_that_is_cut_short_is_named(tmp_path, suffix, compress):
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(LINES)[:-20])
    with pytest.raises(UserError, match=rf"a\.jsonl\.{suffix}: can't be read: Truncated"):
        read(path)


def test_parquet_mistakes_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 2], "text": ["x", None]}), path)
    with pytest.raises(UserError, match=r"no column `body`; it has id, text"):
        read(path, text_field="body")
    with pytest.raises(UserError, match=r"column `id` holds int64, not text"):
        read(path, text_field="id")
    with pytest.raises(UserError, match=r"row 2: `text` is null"):
        read(path)
    path.write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match="not a Parquet file"):
        read(path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "corpus.paths is empty"),
        (["nowhere/*.txt"], "no file matches nowhere"),
        (["a.docx"], "can't tell what kind of file"),
        (["."], r"for a folder's files write '\./\*\*/\*\.txt'"),
    ],
)
def test_missing_and_unknown_files_are_refused(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(UserError, match=message):
        read(*paths)
