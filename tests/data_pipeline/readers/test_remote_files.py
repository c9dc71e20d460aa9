"""Files of every kind are read from a server that breaks off, and what can't be mended is told as what it is."""

from __future__ import annotations

import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from bad_files import answer, tar_of, warc_record
from file_server import file_server
from generated_corpus import generated_texts

from data_pipeline.foundation import remote
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.readers import files, open_corpus
from data_pipeline.readers.document import Document
from data_pipeline.readers.files import FilesConfig

TEXTS = generated_texts(400)
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
pytestmark = pytest.mark.timeout(60)


def table_files() -> dict[str, bytes]:
    table = pa.table({"text": TEXTS})
    made = {}
    for name, opened in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        sink = io.BytesIO()
        with opened(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
        made[name] = sink.getvalue()
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=50)
    return made | {"a.parquet": sink.getvalue()}


FILES = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.json": json.dumps([{"text": text} for text in TEXTS]).encode(),
    "a.tar": tar_of(*((f"{number}.txt", text.encode()) for number, text in enumerate(TEXTS))),
    "a.warc.gz": gzip.compress(
        b"".join(warc_record("response", answer(text.encode(), kind="text/plain")) for text in TEXTS)
    ),
    **table_files(),
}


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "READ_SECONDS", 2.0)


@pytest.fixture
def server():
    with file_server() as running:
        yield running


def read(url: str, **settings) -> list[str]:
    corpus = open_corpus(FilesConfig([url], **settings))
    return [item.text for unit in corpus.units() for item in corpus.read(unit) if isinstance(item, Document)]


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_read_over_a_connection_that_breaks(server, name):
    content = FILES[name]
    url = server.serve(name, content, faults=["fine", "cut 3000", "status 503", "cut 20000"])
    assert read(f"{url}?download=true") == TEXTS
    assert server.files[f"/{name}"].faults == []


@pytest.mark.parametrize("skip_invalid", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_server_that_fails_for_good_is_a_failure_whatever_may_be_skipped(server, name, skip_invalid):
    url = server.serve(name, FILES[name], faults=["fine", *["cut 3000", "status 503"] * 20])
    with pytest.raises(Failure, match=rf"http://.*/{name} can't be read: .*tried 6 times"):
        read(url, skip_invalid=skip_invalid)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changes_meanwhile_is_a_failure(server, name):
    changed = [(FILES[name], '"1"'), (FILES[name][::-1], '"2"')]
    url = server.serve(name, FILES[name], faults=["fine", "cut 3000"], later=changed)
    with pytest.raises(Failure, match=rf"/{name} has changed on the server while it was read"):
        read(url, skip_invalid=True)


@pytest.mark.parametrize("skip_invalid", [True, False])
def test_a_missing_file_is_an_error_whatever_may_be_skipped(server, skip_invalid):
    url = server.serve("a.txt", b"x")
    with pytest.raises(UserError, match=r"b\.txt is not there: the server answers 404"):
        read(url.replace("a.txt", "b.txt"), skip_invalid=skip_invalid)


def test_damage_is_named_by_a_url_without_its_secrets(server):
    url = server.serve("a.jsonl.gz", FILES["a.jsonl.gz"][:-20]).replace("http://", "http://me:S3CRET@")
    with pytest.raises(UserError) as caught:
        read(f"{url}?signature=S3CRET")
    assert "/a.jsonl.gz?…: can't be read: Truncated" in str(caught.value) and "S3CRET" not in str(caught.value)


def test_a_file_on_a_web_server_is_never_divided(server, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 1000)
    for name in ("a.jsonl", "a.parquet"):
        [unit] = open_corpus(FilesConfig([server.serve(name, FILES[name])])).units()
        assert unit.bytes == len(FILES[name])
