"""Units depend on the files alone; a big file in pieces gives each text once, in the order of the whole file."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers import files, open_corpus
from data_pipeline.readers.document import Document
from data_pipeline.readers.files import FilesConfig


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 1000)
    monkeypatch.setattr(files, "GROUP_BYTES", 2000)
    monkeypatch.setattr(files, "GROUP_FILES", 5)


def read(*paths, **settings) -> list[list[str]]:
    corpus = open_corpus(FilesConfig([str(path) for path in paths], **settings))
    return [[item.text for item in corpus.read(unit) if isinstance(item, Document)] for unit in corpus.units()]


def flat(units: list[list[str]]) -> list[str]:
    return [text for unit in units for text in unit]


@given(
    lines=some.lists(some.text(some.sampled_from('aé水\U0001f600\\"'), max_size=60), max_size=40),
    mark=some.sampled_from(["", "\ufeff"]),
    end=some.sampled_from(["\n", "\r\n", "\n\n"]),
    encoding=some.sampled_from(["utf-8", "utf-8", "utf-16"]),
    piece=some.integers(1, 400),
)
def test_every_line_is_in_one_piece(tmp_path_factory, lines, mark, end, encoding, piece):
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    texts = [f"{number}{text}" for number, text in enumerate(lines)]
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + end for text in texts)
    path.write_bytes((content if encoding == "utf-16" else mark + content).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE_BYTES", piece)
        patch.setattr(files, "GROUP_BYTES", piece)
        units = read(path)
    assert flat(units) == texts
    assert len(units) >= (path.stat().st_size / piece) // 2


def test_a_message_about_a_piece_gives_the_byte(tmp_path, small_pieces):
    good = b'{"text": "' + b"a" * 100 + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 30 + b"{}\n" + good * 5)
    at = len(good) * 30
    with pytest.raises(UserError, match=rf"a\.jsonl, byte {at}: there is no field"):
        read(tmp_path / "a.jsonl")
    assert len(flat(read(tmp_path / "a.jsonl", skip_invalid=True))) == 35


def test_a_line_longer_than_a_piece_is_read_once(tmp_path, small_pieces):
    texts = ["a" * 5000, "b", "c" * 3000, "d"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert flat(read(tmp_path / "a.jsonl")) == texts


def test_a_line_without_end_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 4_000_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + b"x" * 30_000_000)
    corpus = open_corpus(FilesConfig([str(tmp_path / "a.jsonl")], skip_invalid=True, largest_document=1000))
    items = [item for unit in corpus.units() for item in corpus.read(unit)]
    assert [getattr(item, "reason", "text") for item in items] == ["text", "too_long", "damaged"]
    assert {item.key for item in items[1:]} <= {f"{tmp_path}/a.jsonl, byte 14", f"{tmp_path}/a.jsonl"}


def test_a_big_table_is_read_by_row_groups(tmp_path, small_pieces):
    texts = [os.urandom(100).hex() for _ in range(100)]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=7)
    units = read(tmp_path / "a.parquet")
    assert flat(units) == texts and len(units) > 10
    parquet.write_table(pa.table({"text": [*texts, None]}), tmp_path / "a.parquet", row_group_size=7)
    with pytest.raises(UserError, match=r"a\.parquet, row 101: `text` is null"):
        read(tmp_path / "a.parquet")


def test_small_files_are_read_together_in_their_order(tmp_path, small_pieces):
    sizes = [100, 100, 3000, 900, 900, 900, *[10] * 8]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:02}.txt").write_text("a" * size)
    assert [[len(text) for text in unit] for unit in read(tmp_path / "*.txt")] == [
        [100, 100],
        [3000],
        [900, 900],
        [900, 10, 10, 10, 10],
        [10, 10, 10, 10],
    ]


def test_no_file_is_read_twice(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert read(tmp_path / "a.txt", tmp_path / "*.txt", tmp_path / "a.txt") == [["a"]]


NAMES = {
    "a line end": b"a\nb.txt",
    "an escape": b"a\x1b[31mb.txt",
    "no UTF-8": b"a\xff\xfeb.txt",
    "brackets": b"a[1-2]*?.txt",
    "spaces": b" a b .txt",
    "a colon": b"http:.txt",
    "quotes": b"a'b\"c.txt",
    "a percent sign": b"a%20b.txt",
    "a long name": b"a" * 250 + b".txt",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_name_is_read_and_shown_on_one_line(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(b"good")
    assert read(os.fsdecode(path)) == read(tmp_path / "*.txt") == [["good"]]
    with open(path, "wb") as file:
        file.write(b"caf\xe9")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "*.txt")
    message = str(caught.value)
    assert message.isprintable() and message.encode() and ".txt: invalid UTF-8" in message


def test_a_folder_named_like_a_file_is_no_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(
        UserError, match=r"no file matches .*a\.jsonl; for a folder's files write '.*a\.jsonl/\*\*/\*\.txt'"
    ):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("skip_invalid", [True, False])
def test_links_in_circles_are_no_files(tmp_path, skip_invalid):
    os.symlink(tmp_path / "b.txt", tmp_path / "a.txt")
    os.symlink(tmp_path / "a.txt", tmp_path / "b.txt")
    for pattern in ("a.txt", "*.txt", "**/*.txt"):
        with pytest.raises(UserError, match="no file matches"):
            read(tmp_path / pattern, skip_invalid=skip_invalid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named_or_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match=r"a\.txt: can't be read: Permission denied; mend it"):
        read(tmp_path / "*.txt")
    assert flat(read(tmp_path / "*.txt", skip_invalid=True)) == ["b"]


def test_a_file_that_goes_away_is_an_error_whatever_may_be_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    corpus = open_corpus(FilesConfig([str(tmp_path / "a.txt")], skip_invalid=True))
    units = corpus.units()
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a\.txt can't be read: No such file"):
        list(corpus.read(units[0]))
