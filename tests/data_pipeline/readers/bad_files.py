"""Several hundred files that something is wrong with, each made on the spot from a description."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import zstandard

FIRST, LAST = "The first good text.", "The last good text."
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}
SMALL = {"largest_document": 1 << 20}


@dataclass(frozen=True)
class BadFile:
    """A file that something may be wrong with.

    Args:
        about: what is wrong.
        name: of the file.
        make: its bytes.
        keeps: which good texts come through when what is bad is left out; unknown if None.
        settings: to read it with.
    """

    about: str
    name: str
    make: Callable[[], bytes]
    keeps: list[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def by_name(value: str | bytes) -> str:
    """Name a test after its file: bytes that were compressed have the time in them, and are others in each process."""
    return value if isinstance(value, str) and len(value) < 40 else "content"


def json_line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


BAD_VALUES = {
    "null": b'{"text": null}',
    "number": b'{"text": 3}',
    "list of texts": b'{"text": ["a"]}',
    "object as text": b'{"text": {"a": "b"}}',
    "true": b'{"text": true}',
    "wrong field": b'{"body": "x"}',
    "no field": b"{}",
    "list record": b'["text"]',
    "text record": b'"text"',
    "number record": b"12",
    "null record": b"null",
    "empty text": b'{"text": ""}',
    "spaces": b'{"text": " \\n\\t"}',
    "high surrogate": b'{"text": "a\\ud800"}',
    "low surrogate": b'{"text": "\\udc00b"}',
    "escaped like an invalid byte": b'{"text": "\\udcff"}',
    "invalid UTF-8": b'{"text": "caf\xe9"}',
    "overlong UTF-8": b'{"text": "\xc0\x80"}',
    "surrogate as UTF-8": b'{"text": "\xed\xa0\x80"}',
    "nothing but NULs": b'{"text": "\\u0000\\u0000"}',
}
BAD_JSON = {
    "words": b"not json at all",
    "half a record": b'{"text": "abc',
    "no value": b'{"text": }',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "NUL inside": b'{"text": "a\0b"}',
    "raw tab": b'{"text": "a\tb"}',
    "single quotes": b"{'text': 'a'}",
    "UTF-16 in the middle": '{"text": "a"}'.encode("utf-16-le"),
    "binary": random.Random(1).randbytes(5000).replace(b"\n", b""),
    "nothing but NULs": b"\0" * 3000,
    "digits without end": b'{"text": ' + b"9" * 10_000 + b"}",
    "bad escape": b'{"text": "\\x"}',
    "short escape": b'{"text": "\\u12"}',
    "trailing comma": b'{"text": "a",}',
    "mark in the middle": b'\xef\xbb\xbf{"text": "a"',
}


def json_lines() -> Iterator[BadFile]:
    more = {
        "two in a line": b'{"text": "a"} {"text": "b"}',
        "array without end": b'[{"text": "a"},',
    }
    for suffix, compress in COMPRESS.items():
        for about, line in (BAD_VALUES | BAD_JSON | more).items():
            content = json_line(FIRST) + line + b"\n" + json_line(LAST)
            yield BadFile(about, f"a.jsonl{suffix}", lambda c=content, z=compress: z(c), [FIRST, LAST])
        long = json_line(FIRST) + b'{"text": "' + b"a" * 3_000_000 + b'"}\n' + json_line(LAST)
        yield BadFile("huge line", f"a.jsonl{suffix}", lambda c=long, z=compress: z(c), [FIRST, LAST], SMALL)
        text = json_line(FIRST) + json_line("a" * (SMALL["largest_document"] + 1)) + json_line(LAST)
        yield BadFile("huge text", f"a.jsonl{suffix}", lambda c=text, z=compress: z(c), [FIRST, LAST], SMALL)
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        content = ("\ufeff" if "be" in encoding else "") + (json_line(FIRST) + json_line(LAST)).decode()
        yield BadFile(encoding, "a.jsonl", lambda c=content, e=encoding: c.encode(e), [FIRST, LAST])
        yield BadFile(f"{encoding} cut", "a.jsonl", lambda c=content, e=encoding: c.encode(e)[:-1])


def json_arrays() -> Iterator[BadFile]:
    def array(*values: bytes) -> bytes:
        return b"[" + b",".join(values) + b"]"

    first, last = json_line(FIRST), json_line(LAST)
    for about, value in BAD_VALUES.items():
        yield BadFile(about, "a.json", lambda v=value: array(first, v, last), [FIRST, LAST])
        yield BadFile(f"{about}, behind one another", "a.json", lambda v=value: first + v + last, [FIRST, LAST])
    for about, value in BAD_JSON.items():
        yield BadFile(about, "a.json", lambda v=value: array(first, v, last), [FIRST])
    for about, content, keeps in (
        ("array without end", b"[" + first + b"," + last, [FIRST, LAST]),
        ("array cut in a record", array(first, last)[:-10], [FIRST]),
        ("words behind the array", array(first, last) + b"more", [FIRST, LAST]),
        ("no commas", b"[" + first + last + b"]", [FIRST]),
        ("only a bracket", b"[", []),
        ("only commas", b"[,,,]", []),
        ("only brackets", b"[" * 100_000, []),
        ("comma at the end", b"[" + first + b",]", [FIRST]),
        ("a number that goes on", b"1" * 3_000_000, []),
    ):
        yield BadFile(about, "a.json", lambda c=content: c, keeps)
    long = b'{"text": "' + b"a" * 5_000_000 + b'"}'
    yield BadFile("huge record", "a.json", lambda: array(first, long, last), [FIRST], SMALL)
    yield BadFile("spaces without end", "a.json", lambda: b" " * 40_000_000, [], SMALL)


def delimited() -> Iterator[BadFile]:
    rows = {
        "NUL": (b"2,a\0b", None),
        "nothing but NULs": (b"2,\0\0\0", [FIRST, LAST]),
        "too few fields": (b"2", [FIRST, LAST]),
        "too many fields": (b"2,a,b", [FIRST, LAST]),
        "invalid UTF-8": (b"2,caf\xe9", [FIRST, LAST]),
        "text behind a quote": (b'2,"a"b', [FIRST, LAST]),
        "unclosed quote": (b'2,"a', [FIRST]),
        "carriage return inside": (b"2,a\rb", [FIRST, LAST]),
        "empty": (b"2,", [FIRST, LAST]),
        "huge field": (b"2," + b"a" * 3_000_000, [FIRST, LAST]),
        "huge quoted field": (b'2,"' + (b"a" * 99 + b"\n") * 30_000 + b'"', None),
        "many fields": (b"2," + b"a," * 100_000, [FIRST, LAST]),
    }
    for suffix, compress in COMPRESS.items():
        for about, (row, keeps) in rows.items():
            content = f"id,text\n1,{FIRST}\n".encode() + row + f"\n3,{LAST}\n".encode()
            yield BadFile(about, f"a.csv{suffix}", lambda c=content, z=compress: z(c), keeps, SMALL)
    for about, content in {
        "no such column": b"id,body\n1,a\n",
        "header that is no UTF-8": b"caf\xe9,text\n1,a\n",
        "header without end": b"a," * 2_000_000,
        "nothing but NULs": b"\0" * 3000,
        "binary": random.Random(2).randbytes(5000),
        "quote in the header": b'"id,text\n1,a\n',
        "carriage returns for line ends": b"id,text\r1,a\r",
        "UTF-16 without a mark": "id,text\n1,a\n".encode("utf-16-le"),
        "rows in quotes without end": b"id,text\n" + (b'"' + b"a" * 99 + b'\n",') * 30_000,
    }.items():
        yield BadFile(about, "a.csv", lambda c=content: c, [], SMALL)
        yield BadFile(about, "a.tsv", lambda c=content: c.replace(b",", b"\t"), None, SMALL)
    table = f"id\ttext\n1\t{FIRST}\n2\t{LAST}\n"
    yield BadFile("UTF-16 as Excel writes it", "a.tsv", lambda: table.encode("utf-16"), [FIRST, LAST])
    yield BadFile(
        "unpaired quotes", "a.tsv", lambda: f'id\ttext\n1\t"{FIRST}\n2\t{LAST}\n'.encode(), ['"' + FIRST, LAST]
    )


def texts_and_pages() -> Iterator[BadFile]:
    contents = {
        "empty": b"",
        "spaces": b" \n\n ",
        "invalid UTF-8": b"caf\xe9",
        "NULs": b"\0" * 1000,
        "PNG": b"\x89PNG\r\n\x1a\n" + random.Random(3).randbytes(4000),
        "gzip": gzip.compress(b"x" * 1000),
        "UTF-16 without a mark": ("x" * 50).encode("utf-16-le"),
        "UTF-16 cut": "\ufeffabc".encode("utf-16-le")[:-1],
        "UTF-16 with half a pair": b"\xff\xfea\0\x00\xd8",
        "only a mark": b"\xef\xbb\xbf",
        "only a UTF-16 mark": b"\xff\xfe",
        "UTF-32 out of range": b"\xff\xfe\0\0\xff\xff\xff\xff",
        "huge": b"a" * (SMALL["largest_document"] + 1),
        "unknown charset": b"<meta charset=klingon><p>a\xe9",
        "charset that is code": b"<meta charset=unicode_escape><p>a\xe9",
        "charset that is compression": b"<meta charset=zlib><p>a\xe9",
        "charset that is a path": b"<meta charset=../../etc/passwd><p>a\xe9",
        "unclosed tags": b"<html><p" * 10_000,
    }
    for about, content in contents.items():
        for name in ("a.txt", "a.md", "a.html", "a.htm.gz"):
            pack = gzip.compress if name.endswith(".gz") else COMPRESS[""]
            yield BadFile(about, name, lambda c=content, z=pack: z(c), None, SMALL)
    for about, content, keeps in (
        ("a bad text between separators", f"{FIRST}\n--\ncaf\udce9\n--\n{LAST}", [FIRST, LAST]),
        ("a huge text between separators", f"{FIRST}\n--\n{'a' * 3_000_000}\n--\n{LAST}", [FIRST, LAST]),
        ("no separator in sight", f"{FIRST}\n--\n{'a' * 40_000_000}\n--\n{LAST}", [FIRST]),
    ):
        encoded = content.encode("utf-8", "surrogateescape")
        yield BadFile(about, "a.txt", lambda c=encoded: c, keeps, {"separator": "\\n--\\n", **SMALL})


def tables() -> Iterator[BadFile]:
    def packed(table: pa.Table, kind: str) -> bytes:
        sink = io.BytesIO()
        if kind == "parquet":
            parquet.write_table(table, sink, row_group_size=50)
        else:
            with (pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream)(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=50)
        return sink.getvalue()

    good = pa.table({"id": range(100), "text": [f"A good text, number {number}." for number in range(100)]})
    damaged = pa.Array.from_buffers(
        pa.string(), 3, pa.array([FIRST.encode(), b"caf\xe9", LAST.encode()], pa.binary()).buffers()
    )
    wrong = {
        "numbers": pa.table({"text": [1, 2]}),
        "lists": pa.table({"text": [["a"], ["b"]]}),
        "structs": pa.table({"text": [{"a": "b"}]}),
        "nulls": pa.table({"text": pa.array([None, None], pa.null())}),
        "texts of bytes": pa.table({"text": [FIRST.encode(), LAST.encode()]}),
        "no such column": pa.table({"body": ["a"]}),
        "no columns": pa.table({}),
        "no rows": pa.table({"text": pa.array([], pa.string())}),
        "null between": pa.table({"text": [FIRST, None, LAST]}),
        "empty between": pa.table({"text": [FIRST, "", LAST]}),
        "invalid UTF-8 between": pa.table({"text": damaged}),
        "huge between": pa.table({"text": [FIRST, "a" * 3_000_000, LAST]}),
        "dictionary": pa.table({"text": pa.array([FIRST, None, LAST]).dictionary_encode()}),
    }
    for kind in ("parquet", "file.arrow", "stream.arrow"):
        name = f"a.{kind}"
        content = packed(good, kind)
        for about, table in wrong.items():
            if not (about == "no columns" and kind != "parquet"):
                keeps = [FIRST, LAST] if any(word in about for word in ("between", "bytes", "dictionary")) else []
                yield BadFile(about, name, lambda t=table, k=kind: packed(t, k), keeps, SMALL)
        for share in (0, 1, 4, 8, 30, 50, 90, 99):
            yield BadFile(f"cut at {share} %", name, lambda c=content, s=share: c[: len(c) * s // 100])
        for seed in range(12):
            yield BadFile(f"flipped bits, {seed}", name, lambda c=content, s=seed: flipped(c, s))
        for about, other in (
            ("text", b"not a table at all"),
            ("NULs", b"\0" * 1000),
            ("only magic", b"PAR1PAR1"),
            ("only Arrow's magic", b"ARROW1\0\0ARROW1"),
            ("a footer that claims too much", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"),
            ("a message that claims too much", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\0" * 100),
        ):
            yield BadFile(about, name, lambda c=other: c)
    nested = pa.table({"document": [{"text": FIRST}, None, {"text": None}, {"text": LAST}]})
    for kind in ("parquet", "file.arrow", "stream.arrow"):
        for inner, keeps in (("document.text", [FIRST, LAST]), ("document.body", []), ("document", [])):
            settings = {"text_field": inner}
            yield BadFile(f"nested: {inner}", f"a.{kind}", lambda k=kind: packed(nested, k), keeps, settings)


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return sink.getvalue()


def archives() -> Iterator[BadFile]:
    def special(kind: bytes, name: str = "b.txt", size: int = 0) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, size, "/etc/passwd"
        return entry

    def forged(kind: bytes, size: int, content: bytes = b"") -> bytes:
        entry = tarfile.TarInfo("b.txt")
        entry.type, entry.size = kind, size
        return tar_of(first)[:1024] + entry.tobuf(tarfile.GNU_FORMAT) + content + tar_of(last)

    first, last = ("a.txt", FIRST.encode()), ("z.txt", LAST.encode())
    good = tar_of(first, ("b.txt", b"b" * 2000), last)
    yield BadFile("no damage", "a.tar", lambda: tar_of(first, last), [FIRST, LAST])
    yield BadFile("empty", "a.tar", lambda: b"", [])
    yield BadFile("nothing in it", "a.tar", tar_of, [])
    yield BadFile("text", "a.tar", lambda: b"not a tar at all" * 100, [])
    yield BadFile("binary", "a.tar", lambda: random.Random(4).randbytes(3000), [])
    yield BadFile("no end mark", "a.tar", lambda: good.rstrip(b"\0") + b"\0" * (-len(good.rstrip(b"\0")) % 512))
    yield BadFile("words for a header", "a.tar", lambda: good[:1024] + b"x" * 512 + good[1024:], [FIRST])
    for at in (1, 100, 512, 520, 1024, 1500, 2000, len(good) - 9000):
        yield BadFile(f"cut at {at}", "a.tar", lambda a=at: good[:a])
    for seed in range(25):
        yield BadFile(f"flipped bits, {seed}", "a.tar", lambda s=seed: flipped(good, s))
    for letter in b"1234567SDMNVKLxXgA~":
        kind = bytes([letter])
        yield BadFile(f"member of type {kind!r}", "a.tar", lambda k=kind: tar_of(first, special(k), last), None)
        yield BadFile(f"type {kind!r} that claims 2 GB", "a.tar", lambda k=kind: forged(k, 1 << 31))
        yield BadFile(f"type {kind!r} of 8 EB", "a.tar", lambda k=kind: forged(k, 1 << 62))
    for about, content in {
        "not a record": b"x" * 30,
        "length too long": b"99 path=a\n",
        "length too short": b"3 path=abc\n",
        "no length": b" path=a\n",
        "huge length": b"9" * 400 + b" path=a\n",
        "huge size": b"30 size=99999999999999999999\n",
        "negative size": b"11 size=-5\n",
        "size in words": b"13 size=many\n",
        "NULs": b"\0" * 512,
        "a sparse map": b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
    }.items():
        padded = content + b"\0" * (-len(content) % 512)
        yield BadFile(f"extended header: {about}", "a.tar", lambda c=content, p=padded: forged(b"x", len(c), p))
    names = {
        "long name": "b/" * 200 + "b.txt",
        "name that leads out": "../../../etc/b.txt",
        "absolute name": "/etc/b.txt",
        "name with a line end": "b\nc.txt",
        "name that is no UTF-8": "b\udcff.txt",
        "name of escapes": "b\x1b[31m.txt",
        "no name": ".txt",
        "name that is a folder": "b/",
    }
    for about, name in names.items():
        for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            for content in (b"b", b"caf\xe9"):
                make = lambda n=name, f=format, c=content: tar_of(first, (n, c), last, format=f)  # noqa: E731
                yield BadFile(f"{about}, {format}, {content!r}", "a.tar", make)
    for name, content in {
        "b.txt": b"caf\xe9",
        "b.html": b"\x89PNG" + random.Random(5).randbytes(1000),
        "b.json": b'{"text": 3}',
        "b.jsn": b'{"text": "a"}',
        "c.json": b"[[[",
        "d.json": b'{"text": "a\xff"}',
        "b.pyd": b"cos\nsystem\n(S'touch made'\ntR.",
        "b.pth": b"\x80\x04",
        "b.txt.gz": gzip.compress(b"\0" * 50_000_000),
        "b.md": b"",
        "e.txt": b"\xff\xfea",
        "f.txt": b"a" * 3_000_000,
    }.items():
        yield BadFile(
            f"member {name}", "a.tar", lambda n=name, c=content: tar_of(first, (n, c), last), [FIRST, LAST], SMALL
        )


def warc_record(kind: str, block: bytes, length: str | None = None, version: str = "WARC/1.0") -> bytes:
    lines = [version, f"WARC-Type: {kind}", "WARC-Target-URI: http://x/", "WARC-Record-ID: <urn:uuid:1>"]
    lines += ["Content-Type: application/http; msgtype=response", f"Content-Length: {length or len(block)}", "", ""]
    return "\r\n".join(lines).encode() + block + b"\r\n\r\n"


def answer(body: bytes, *headers: str, status: str = "200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers, "", ""]).encode() + body


def crawls() -> Iterator[BadFile]:
    first = warc_record("warcinfo", b"a: b\r\n") + warc_record("response", answer(FIRST.encode()))
    last = warc_record("response", answer(LAST.encode()))
    page = answer(b"<p>a page")
    packed = gzip.compress(b"a" * 1000)
    blocks = {
        "binary page": answer(b"\x89PNG\0\0\0\0" + b"\0" * 100),
        "image": answer(b"\x89PNG", kind="image/png"),
        "unknown charset": answer(b"a\xe9", kind="text/html; charset=klingon"),
        "charset of escapes": answer(b"a\xe9", kind="text/html; charset=\x1b[31m"),
        "no charset": answer(b"a\xe9", kind="text/html"),
        "plain text in no UTF-8": answer(b"\xe9", kind="text/plain"),
        "not found": answer(b"<p>no", status="404 Not Found"),
        "no status": b"HTTP/1.1\r\n\r\nabc",
        "no HTTP": b"abc",
        "nothing": b"",
        "NULs": b"\0" * 1000,
        "bad gzip": answer(b"hello", "Content-Encoding: gzip"),
        "cut gzip": answer(packed[:-9], "Content-Encoding: gzip"),
        "bad brotli": answer(b"hello", "Content-Encoding: br"),
        "bad chunks": answer(b"zz\r\nhello", "Transfer-Encoding: chunked"),
        "endless chunk": answer(b"fffffffffffffff\r\nhello", "Transfer-Encoding: chunked"),
        "unknown coding": answer(b"hello", "Content-Encoding: klingon"),
        "gzip bomb": answer(gzip.compress(b"\0" * 50_000_000), "Content-Encoding: gzip"),
        "huge page": answer(b"a" * 3_000_000),
        "long header": answer(b"a", "X: " + "a" * 500_000),
        "empty page": answer(b""),
    }
    for about, block in blocks.items():
        content = first + warc_record("response", block) + last
        yield BadFile(about, "a.warc", lambda c=content: c, None if "HTTP" in about else [FIRST, LAST], SMALL)
        yield BadFile(about, "a.warc.gz", lambda c=content: gzip.compress(c), None, SMALL)
    for length in ("0", "5", "99999", "-5", "abc", "9" * 30, "1e3", ""):
        content = first + warc_record("response", page, length or " ") + last
        yield BadFile(f"length {length}", "a.warc", lambda c=content: c)
    good = first + warc_record("response", page) + last
    for at in (1, 9, 50, 170, len(first) - 30, len(first) + 20, len(good) - 40):
        yield BadFile(f"cut at {at}", "a.warc", lambda a=at: good[:a])
    for seed in range(15):
        yield BadFile(f"flipped bits, {seed}", "a.warc", lambda s=seed: flipped(good, s))
    for about, content in {
        "empty": b"",
        "text": b"not a crawl at all\n" * 100,
        "binary": random.Random(6).randbytes(5000),
        "plain line ends": good.replace(b"\r\n", b"\n"),
        "a header without end": b"WARC/1.0\r\nX: " + b"a" * 20_000_000,
        "headers without end": b"WARC/1.0\r\n" + b"X: a\r\n" * 500_000,
        "unknown version": good.replace(b"WARC/1.0", b"WARC/9.9"),
        "unknown types": good.replace(b"response\r\nWARC-T", b"rumours\r\nWARC-T"),
        "a record without a length": b"WARC/1.0\r\nWARC-Type: response\r\n\r\nabc\r\n\r\n" + good,
    }.items():
        yield BadFile(about, "a.warc", lambda c=content: c)
    converted = warc_record("conversion", FIRST.encode()) + warc_record("conversion", b"caf\xe9")
    yield BadFile("converted text in no UTF-8", "a.warc.wet.gz", lambda: gzip.compress(converted), [FIRST])


def damaged_compression() -> Iterator[BadFile]:
    contents = {
        "jsonl": json_line(FIRST) * 200,
        "json": json.dumps([{"text": FIRST}] * 200).encode(),
        "csv": ("text\n" + f"{FIRST}\n" * 200).encode(),
        "txt": f"{FIRST}\n".encode() * 200,
        "html": f"<p>{FIRST}\n".encode() * 200,
        "tar": tar_of(*((f"{number}.txt", FIRST.encode()) for number in range(20))),
        "warc": warc_record("response", answer(FIRST.encode())) * 50,
    }
    for kind, content in contents.items():
        for suffix, compress in COMPRESS.items():
            if not suffix:
                continue
            packed = compress(content)
            for about, made in {
                "empty": b"",
                "a byte": packed[:1],
                "only a header": packed[:12],
                "half": packed[: len(packed) // 2],
                "all but the end": packed[:-3],
                "not compressed": content,
                "words behind it": packed + b"more words",
                "another compression": (zstandard.compress if suffix == ".gz" else gzip.compress)(content),
            }.items():
                yield BadFile(about, f"a.{kind}{suffix}", lambda m=made: m)
            for seed in range(3):
                yield BadFile(f"flipped bits, {seed}", f"a.{kind}{suffix}", lambda p=packed, s=seed: flipped(p, s))


def bombs() -> Iterator[BadFile]:
    """A few hundred kilobytes that would be a gigabyte, or pretend to be more."""
    for suffix, compress in COMPRESS.items():
        if not suffix:
            continue
        for letter in (b"\0", b" ", b"a", b"[", b"\n") if suffix == ".gz" else (b"a",):
            many = lambda z=compress, b=letter: z(b * (1 << 24)) * 64  # noqa: E731
            for kind in ("jsonl", "json", "csv", "tsv", "txt", "html", "tar", "warc"):
                yield BadFile(f"a gigabyte of {letter!r}", f"a.{kind}{suffix}", many, [], SMALL)
        header = tarfile.TarInfo("b.txt")
        header.size = 1 << 28
        parts = (compress(header.tobuf()), compress(b"a" * (1 << 24)) * 16, compress(tar_of(("z.txt", LAST.encode()))))
        yield BadFile("a huge member", f"a.tar{suffix}", lambda p=parts: b"".join(p), [LAST], SMALL)
    wide = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 40), ["a" * 20_000_000])})

    def table() -> bytes:
        sink = io.BytesIO()
        parquet.write_table(wide, sink)
        return sink.getvalue()

    yield BadFile("a word of 20 MB in every row", "a.parquet", table, [], SMALL)
    huge_dictionary = lzma.compress(b"a" * 1000, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    yield BadFile("a window of a gigabyte", "a.txt.xz", lambda: huge_dictionary, [])


def flipped(content: bytes, seed: int) -> bytes:
    """Return the content with a few bits changed."""
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(1 + seed % 4):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def all_bad_files() -> list[BadFile]:
    makers = (
        json_lines,
        json_arrays,
        delimited,
        texts_and_pages,
        tables,
        archives,
        crawls,
        damaged_compression,
        bombs,
    )
    return [bad for maker in makers for bad in maker()]
