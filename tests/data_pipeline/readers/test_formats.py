"""Every format gives its texts, in order and unchanged; what is around the text is never taken for it."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from bad_files import answer, by_name, tar_of, warc_record
from generated_corpus import generated_texts

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document, Unreadable
from data_pipeline.readers.files import FilesConfig

TEXTS = generated_texts(20)


def items(path, **settings) -> list[Document | Unreadable]:
    corpus = open_corpus(FilesConfig([str(path)], **settings))
    return [item for unit in corpus.units() for item in corpus.read(unit)]


def texts(path, **settings) -> list[str]:
    return [item.text for item in items(path, **settings) if isinstance(item, Document)]


def reasons(path, **settings) -> list[str]:
    return [item.reason for item in items(path, **settings) if isinstance(item, Unreadable)]


@pytest.fixture
def write(tmp_path):
    def writer(name: str, content: bytes | str):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ndjson", LINES),
        ("A.JSONL", LINES),
        ("a.jsonl.xz", lzma.compress(LINES.encode())),
        ("two-streams.jsonl.xz", lzma.compress(LINES[:500].encode()) + b"\0" * 8 + lzma.compress(LINES[500:].encode())),
        ("utf-16.jsonl", LINES.encode("utf-16")),
        ("utf-32.jsonl.gz", gzip.compress(LINES.encode("utf-32"))),
        ("a.json", json.dumps([{"text": text} for text in TEXTS], indent=2)),
        ("a.json.zst", zstandard.compress(json.dumps([{"text": text} for text in TEXTS], ensure_ascii=False).encode())),
        ("lines.json", LINES),
        ("utf-16.json", json.dumps([{"text": text} for text in TEXTS]).encode("utf-16")),
        ("nan.jsonl", LINES.replace("{", '{"score": NaN, ')),
        ("big-numbers.jsonl", LINES.replace("{", '{"id": 123456789012345678901234567890, ')),
    ],
    ids=by_name,
)
def test_json_in_every_guise(write, name, content):
    assert texts(write(name, content)) == TEXTS


def test_records_longer_than_the_window_on_an_array(write):
    long = ["水" * 700_000, "a" * 3_000_000, *TEXTS]
    path = write("a.json", json.dumps([{"n": 1.5e3, "text": text} for text in long], ensure_ascii=False))
    assert texts(path) == long


def test_one_json_object_is_one_record(write):
    assert texts(write("a.json", '{"text": "x"}')) == ["x"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "stream.arrow", "file.arrow"])
def test_a_dotted_field_goes_into_records_unless_the_name_itself_has_the_dot(tmp_path, kind):
    rows = [{"document": {"text": "inner", "meta": {"text": "innermost"}}, "a.b": "dotted"}]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(rows[0]))
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        with (pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    assert texts(path, text_field="document.text") == ["inner"]
    assert texts(path, text_field="document.meta.text") == ["innermost"]
    assert texts(path, text_field="a.b") == ["dotted"]
    with pytest.raises(UserError, match=r"title.*text"):
        texts(path, text_field="document.title")


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_arrow_files_and_streams_of_every_kind_of_text(tmp_path, kind):
    column = pa.array(TEXTS).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(TEXTS, kind)
    table = pa.table({"id": range(20), "text": column, "more": [[1]] * 20})
    for name, opened in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with opened(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        assert texts(tmp_path / name) == TEXTS
    if kind != pa.string_view():
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=6)
        assert texts(tmp_path / "a.parquet") == TEXTS


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
def test_parquet_in_every_encoding(tmp_path, encoding, compression):
    path = tmp_path / "a.parquet"
    settings = {"use_dictionary": False, "column_encoding": {"text": encoding}, "compression": compression}
    parquet.write_table(pa.table({"text": TEXTS}), path, row_group_size=6, **settings)
    assert texts(path) == TEXTS


def test_a_folder_that_datasets_saved_is_read_in_its_order(tmp_path):
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, part in zip(names, (TEXTS[:12], TEXTS[12:])):
        table = pa.table({"text": part})
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    (folder / "cache-1.arrow").write_bytes(b"of no interest")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    assert texts(folder) == TEXTS
    assert texts(folder / "data-*.arrow") == TEXTS
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["saved"]}')
    with pytest.raises(UserError, match=r"several splits: name the folder of one; there are saved"):
        texts(tmp_path)


def test_csv_with_quotes_and_tsv_without(write):
    rows = 'id,text\n1,"a ""quoted""\nword, and more"\n\n2,plain\r\n'
    assert texts(write("a.csv", rows)) == ['a "quoted"\nword, and more', "plain"]
    assert [item.key.rpartition(":")[2] for item in items(write("a.csv", rows))] == ["2", "5"]
    assert texts(write("a.tsv", 'text\tid\n"so" it goes\t1\n"\t2\n')) == ['"so" it goes', '"']
    assert texts(write("utf16.tsv", "text\tid\ncafé\t1\n".encode("utf-16"))) == ["café"]


def test_markup_is_what_the_user_says_of_fields_and_html_of_pages(write):
    html = {"markup": "html"}
    for path in (
        write("a.jsonl", '{"text": "<p>a"}'),
        write("a.csv", "text\n<p>a\n"),
        write("a.json", '{"text": "<p>a"}'),
    ):
        assert [item.markup for item in items(path)] == ["text"]
        assert [item.markup for item in items(path, **html)] == ["html"]
    assert [item.markup for item in items(write("a.html", "<p>a"))] == ["html"]
    assert [item.markup for item in items(write("a.md", "<p>a"), **html)] == ["text"]
    with pytest.raises(UserError, match=r"corpus\.markup=xml: there are text and html"):
        items(write("a.md", "a"), markup="xml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<p>café".encode(), "<p>café"),
        ("\ufeff<p>café".encode(), "<p>café"),
        ("\ufeff<p>café".encode("utf-16-le"), "<p>café"),
        ("<meta charset=latin1><p>café “x”".encode("cp1252"), "<meta charset=latin1><p>café “x”"),
        ("<META http-equiv=x content='text/html; CHARSET=Shift_JIS'>水".encode("shift_jis"), None),
        ("<meta charset='gb2312'>水车".encode("gb18030"), "<meta charset='gb2312'>水车"),
        ("<meta charset=utf-16>é".encode(), "<meta charset=utf-16>é"),
        (b"<meta charset=utf-8>caf\xe9", "<meta charset=utf-8>caf\ufffd"),
    ],
)
def test_pages_are_decoded_as_browsers_do(write, content, expected):
    [page] = texts(write("a.html", content))
    assert page == expected or (expected is None and page.endswith("水"))


def test_crawled_pages_and_texts_are_read_and_the_rest_is_ignored(write):
    chunked = b"5\r\n<p>ch\r\n4\r\nunks\r\n0\r\n\r\n"
    content = b"".join(
        [
            warc_record("warcinfo", b"software: x\r\n"),
            warc_record("request", b"GET / HTTP/1.1\r\n\r\n"),
            warc_record("response", answer("<p>café".encode("latin-1"), kind="text/html; charset=ISO-8859-1")),
            warc_record("response", answer(gzip.compress(b"<p>packed"), "Content-Encoding: gzip")),
            warc_record("response", answer(chunked, "Transfer-Encoding: chunked")),
            warc_record("response", answer(b"<p>as it is", "Transfer-Encoding: chunked")),
            warc_record("response", answer(b"plain", kind="text/plain")),
            warc_record("response", answer("水".encode("gb18030"), kind="text/plain; charset=gb2312")),
            warc_record("response", answer(b"\x89PNG", kind="image/png")),
            warc_record("response", answer(b"gone", status="404 Not Found")),
            warc_record("conversion", b"converted"),
            warc_record("metadata", b"a: b\r\n"),
        ]
    )
    read = items(write("a.warc.gz", b"".join(map(gzip.compress, [content[:300], content[300:]]))))
    assert [(item.text, item.markup) for item in read if isinstance(item, Document)] == [
        ("<p>café", "html"),
        ("<p>packed", "html"),
        ("<p>chunks", "html"),
        ("<p>as it is", "html"),
        ("plain", "text"),
        ("水", "text"),
        ("converted", "text"),
    ]
    assert [item.reason for item in read if isinstance(item, Unreadable)] == ["not_text", "not_text"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_samples(write, format):
    long = "d/" * 40 + "é" * 15 + ".txt" if format != tarfile.USTAR_FORMAT else "d/e.txt"
    content = tar_of(
        ("1.jpg", b"\xff\xd8"),
        ("1.json", b'{"width": 3}'),
        ("1.txt", b"a caption"),
        ("2.cls", b"7"),
        ("2.json", b'{"text": "a record"}'),
        ("3.en.txt", b"hello"),
        ("3.de.txt", b"hallo"),
        (long, b"far down"),
        ("5.html", b"<p>a page"),
        ("6.md", b"# a title"),
        (".hidden.txt", b"of no interest"),
        ("7.txt", b"x" * 70_000),
        format=format,
    )
    for name, packed in (("a.tar", content), ("a.tar.gz", gzip.compress(content))):
        path = write(name, packed)
        assert texts(path) == [
            "a caption",
            "a record",
            "hello",
            "hallo",
            "far down",
            "<p>a page",
            "# a title",
            "x" * 70_000,
        ]
        assert reasons(path) == ["not_text"] * 4
        assert items(path)[1].key == f"{path}, member 1.txt"


def test_a_record_without_text_is_a_mistake_where_its_sample_has_no_other(write):
    path = write("a.tar", tar_of(("1.txt", b"a"), ("2.json", b'{"body": "b"}'), ("2.jpg", b"")))
    with pytest.raises(UserError, match=r"a\.tar, member 2\.json, record 1: there is no field `text` among body"):
        items(path)
    assert reasons(path, skip_invalid=True) == ["not_text", "no_text"]


def test_numbers_in_an_archive_too_large_for_octal_are_read(write):
    header = tarfile.TarInfo("a.txt")
    header.size = 3
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert texts(write("a.tar", bytes(block) + b"abc".ljust(512, b"\0") + b"\0" * 1024)) == ["abc"]


def test_a_format_can_be_given_where_the_name_does_not_tell(write):
    path = write("data.bin.gz", gzip.compress(LINES.encode()))
    with pytest.raises(UserError, match=r"can't tell what kind of file this is.*corpus\.format=KIND"):
        texts(path)
    assert texts(path, format="jsonl") == TEXTS
    with pytest.raises(UserError, match=r"corpus\.format=jsnl: there are txt, md, .*jsonl"):
        texts(path, format="jsnl")


def test_a_table_that_is_compressed_as_a_whole_is_refused(write):
    with pytest.raises(UserError, match=r"a\.parquet\.gz: parquet files are compressed within"):
        texts(write("a.parquet.gz", b""))


def test_a_text_of_exactly_the_largest_size_is_read(write):
    for name, content in (
        ("a.txt", "é" * 500),
        ("a.jsonl", json.dumps({"text": "é" * 500})),
        ("a.csv", "text\n" + "é" * 500),
    ):
        path = write(name, content)
        assert texts(path, largest_document=1000) == ["é" * 500]
        with pytest.raises(UserError, match=r"longer than corpus\.largest_document=999 bytes"):
            texts(path, largest_document=999)


def test_the_key_says_where_a_text_is(write):
    parquet.write_table(pa.table({"text": ["a", "b"]}), buffer := io.BytesIO())
    expected = {
        write("a.jsonl", '{"text": "a"}\n\n{"text": "b"}'): [":1", ":3"],
        write("a.json", '[{"text": "a"}, {"text": "b"}]'): [", record 1", ", record 2"],
        write("a.parquet", buffer.getvalue()): [", row 1", ", row 2"],
        write("a.txt", "a"): [""],
    }
    for path, where in expected.items():
        assert [item.key for item in items(path)] == [f"{path}{end}" for end in where]
