"""Files are found in a fixed order wherever they lie, and a broken download is either mended or named."""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
import sys

import pytest
from file_server import file_server

from data_pipeline.foundation import remote
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.locations import Found, find, identity, open_location, shown

pytestmark = pytest.mark.timeout(60)
CONTENT = random.Random(0).randbytes(1_500_000)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "READ_SECONDS", 0.3)


@pytest.fixture
def server():
    with file_server() as running:
        yield running


def read(location: str, start: int = 0) -> bytes:
    with open_location(location, start) as file:
        return file.read()


def names(pattern) -> list[str]:
    return [found.location for found in find(str(pattern))]


class TestLocalFiles:
    def test_patterns_are_expanded_in_order_with_sizes(self, tmp_path):
        for name in ("b/c/2.txt", "b/1.txt", "a.txt", "b/.hidden/3.txt", ".4.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        assert find(f"{tmp_path}/**/*.txt") == [
            Found(f"{tmp_path}/{name}", len(name)) for name in ("a.txt", "b/1.txt", "b/c/2.txt")
        ]
        assert names(f"{tmp_path}/b/**/**/[0-9].txt") == [f"{tmp_path}/b/1.txt", f"{tmp_path}/b/c/2.txt"]
        assert names(f"{tmp_path}/?.txt") == [f"{tmp_path}/a.txt"]
        assert names(f"file://{tmp_path}/b/*.txt") == [f"{tmp_path}/b/1.txt"]
        assert names(f"{tmp_path}/b/**") == [f"{tmp_path}/b/1.txt", f"{tmp_path}/b/c/2.txt"]

    def test_a_relative_pattern_gives_relative_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.txt").touch()
        assert names("*.txt") == names("**/*.txt") == ["a.txt"]
        assert names("./a.txt") == names("./*.txt") == ["./a.txt"]

    def test_a_name_with_brackets_is_taken_as_it_stands(self, tmp_path):
        for name in ("a[1].txt", "a1.txt"):
            (tmp_path / name).touch()
        assert names(tmp_path / "a[1].txt") == [f"{tmp_path}/a[1].txt"]

    def test_folders_and_missing_files_are_not_found(self, tmp_path):
        (tmp_path / "folder.txt").mkdir()
        os.symlink(tmp_path / "nowhere", tmp_path / "broken.txt")
        os.mkfifo(tmp_path / "pipe.txt")
        assert names(tmp_path / "*.txt") == names(tmp_path / "x.txt") == names(tmp_path / "x" / "**") == []

    def test_links_in_circles_end_and_no_folder_is_entered_twice(self, tmp_path):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "x.txt").touch()
        for name in ("up", "again", "more"):
            os.symlink(tmp_path, tmp_path / "a" / name)
            os.symlink(tmp_path / "a", tmp_path / "a" / "b" / name)
        assert names(tmp_path / "**" / "*.txt") == [f"{tmp_path}/a/b/x.txt"]

    def test_a_link_to_a_folder_elsewhere_is_followed(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "x.txt").touch()
        (tmp_path / "texts").mkdir()
        os.symlink(tmp_path / "elsewhere", tmp_path / "texts" / "link")
        assert names(tmp_path / "texts" / "**" / "*.txt") == [f"{tmp_path}/texts/link/x.txt"]

    def test_reading_starts_anywhere(self, tmp_path):
        (tmp_path / "a").write_bytes(CONTENT)
        assert read(str(tmp_path / "a"), 1_000_001) == CONTENT[1_000_001:]

    def test_the_identity_is_of_the_content(self, tmp_path):
        (tmp_path / "a").write_bytes(CONTENT)
        (tmp_path / "b").write_bytes(CONTENT)
        (tmp_path / "c").write_bytes(CONTENT[:-1])
        assert identity(str(tmp_path / "a")) == identity(str(tmp_path / "b")) != identity(str(tmp_path / "c"))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"nowhere\.txt can't be read: No such file"):
            open_location(str(tmp_path / "nowhere.txt"))
        with pytest.raises(UserError, match=r"nowhere\.txt can't be read: No such file"):
            identity(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    "location",
    [
        "pipe:touch made",
        "PIPE:touch made",
        "ftp://host/a.txt",
        "simplecache::http://127.0.0.1/a.txt",
        "zip://a.txt::http://127.0.0.1/b.zip",
        "http://127.0.0.1/a::b",
        "simplecache://a",
        "memory://a.txt",
        "hdfs://host/a.txt",
        "github://a:b@c/d",
    ],
)
@pytest.mark.parametrize("action", [find, open_location, identity])
def test_other_schemes_are_refused_by_name(tmp_path, monkeypatch, location, action):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        action(location)
    assert location.partition(":")[0] in str(caught.value) and "http://, https://, s3://, gs://" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_host_is_refused():
    with pytest.raises(UserError, match="a file of another host"):
        find("file://otherhost/etc/passwd")


def test_a_file_whose_name_looks_like_a_url_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipe:x.txt").write_text("x")
    assert names("pipe:x.txt") == ["pipe:x.txt"]
    assert names("notes: monday.txt") == []


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_backend_is_asked_for(monkeypatch, scheme, package):
    import fsspec

    fsspec.filesystem.__globals__["_registry"].pop(scheme, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install headrace\[{scheme}\]"):
        find(f"{scheme}://bucket/*.txt")


class TestHttp:
    def test_a_file_is_found_read_and_identified(self, server):
        url = server.serve("a.txt", CONTENT, tag='"abc"')
        assert find(url) == [Found(url, len(CONTENT))]
        assert read(url) == CONTENT
        assert read(url, 700_000) == CONTENT[700_000:]
        assert '"abc"' in identity(url)

    def test_a_stream_can_be_jumped_in(self, server):
        with open_location(server.serve("a.txt", CONTENT)) as file:
            assert file.seek(-8, io.SEEK_END) == len(CONTENT) - 8
            assert file.read() == CONTENT[-8:]
            for at in (1_000_000, 3, 400_000, 400_100):
                file.seek(at)
                assert file.read(1000) == CONTENT[at : at + 1000]

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize("tag", ['"1"', 'W/"1"', None])
    @pytest.mark.parametrize(
        ("faults", "says_length"),
        [
            (["status 503", "status 429", "status 500"], True),
            (["cut 0", "cut 1", "cut 700000", "cut 300000"], True),
            (["stall 0", "stall 500001"], True),
            (["cut 200000", "status 502", "stall 400000", "cut 10"], True),
            # Without a length a cut can't be told from the end, but a stall can.
            (["status 503", "stall 500001"], False),
        ],
        ids=["refusals", "cuts", "stalls", "mixed", "no length"],
    )
    def test_a_stream_that_breaks_goes_on_at_the_same_byte(self, server, faults, says_length, tag, ranges):
        url = server.serve("a.txt", CONTENT, tag=tag, ranges=ranges, says_length=says_length, faults=list(faults))
        assert hashlib.md5(read(url)).digest() == hashlib.md5(CONTENT).digest()
        assert server.files["/a.txt"].faults == []

    def test_a_part_is_asked_for_only_from_where_it_broke(self, server):
        url = server.serve("a.txt", CONTENT, faults=["cut 1000000"])
        assert read(url) == CONTENT
        first, second = server.ranges_asked
        # What the client had received but not yet handed on when the connection broke is asked for again.
        assert first is None and 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 1_000_000

    def test_more_breaks_than_attempts_are_no_matter_as_long_as_it_goes_on(self, server):
        url = server.serve("a.txt", CONTENT * 20, faults=["cut 2000000"] * 12)
        assert hashlib.md5(read(url)).digest() == hashlib.md5(CONTENT * 20).digest()

    @pytest.mark.parametrize("fault", ["status 503", "cut 0", "stall 0", "cut 1000", "stall 1000", "trickle"])
    def test_a_server_that_never_mends_is_given_up(self, server, fault):
        url = server.serve("a.txt", CONTENT, faults=[fault] * 100)
        with pytest.raises(Failure, match=r"a\.txt can't be read: .*; tried 6 times"):
            read(url)

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize(
        ("tag", "later"),
        [
            ('"1"', (CONTENT[::-1], '"2"')),
            ('W/"1"', (CONTENT[::-1], 'W/"2"')),
            (None, (CONTENT[::-1], None)),
            (None, (CONTENT[:900_000], None)),
            ('"1"', (b"short", '"2"')),
        ],
        ids=["tag", "weak tag", "no tag", "shorter without a tag", "much shorter"],
    )
    def test_a_file_that_changes_while_it_is_read_is_never_mixed(self, server, tag, later, ranges):
        url = server.serve("a.txt", CONTENT, tag=tag, ranges=ranges, faults=["cut 800000"], later=[later])
        with pytest.raises((Failure, UserError), match=r"a\.txt (has changed on the server|ends before byte)"):
            read(url)
        assert len(server.ranges_asked) == 2

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (404, "is not there: .*404"),
            (403, "not for everyone: .*403"),
            (401, "credentials"),
            (400, "400 Bad Request"),
        ],
    )
    @pytest.mark.parametrize("action", [find, read, identity])
    def test_a_refusal_is_told_at_once(self, server, status, message, action):
        url = server.serve("a.txt", CONTENT, faults=[f"status {status}"])
        with pytest.raises(UserError, match=message):
            action(url)
        assert len(server.ranges_asked) == 1

    def test_nobody_there_is_a_failure(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.txt"
            with pytest.raises(Failure, match=r"a\.txt can't be read: .*tried 6 times"):
                find(url)

    def test_a_pattern_is_refused(self, server):
        with pytest.raises(UserError, match="can't be searched by a pattern; give the URL of each file"):
            find(f"http://127.0.0.1:{server.server_port}/*.txt")

    @pytest.mark.parametrize("url", ["http://", "http:///a.txt", "http://[::1", "http://a b/c", "http://host:port/a"])
    def test_what_is_no_url_is_an_error(self, url):
        with pytest.raises((UserError, Failure)):
            find(url)

    def test_credentials_never_reach_a_message(self, server):
        url = server.serve("a.txt", CONTENT, faults=["status 403", *["status 503"] * 9])
        secret = url.replace("http://", "http://me:S3CRET@") + "?token=S3CRET&x=1"
        assert shown(secret) == url + "?…"
        for _ in range(2):
            with pytest.raises((UserError, Failure)) as caught:
                find(secret)
            assert "S3CRET" not in str(caught.value) and "a.txt" in str(caught.value)

    def test_a_redirection_in_circles_is_given_up_without_a_word_about_the_credentials(self, server):
        url = server.serve("a.txt", CONTENT, faults=["status 302"] * 100, headers={"Location": "/a.txt?token=S3CRET"})
        with pytest.raises(Failure, match=r"a\.txt\?… can't be read: TooManyRedirects; tried") as caught:
            find(url.replace("http://", "http://me:S3CRET@") + "?token=S3CRET")
        assert "S3CRET" not in str(caught.value)

    def test_a_redirection_to_a_file_is_refused(self, server):
        url = server.serve("a.txt", CONTENT, faults=["status 302"], headers={"Location": "file:///etc/passwd"})
        with pytest.raises(UserError, match=r"a\.txt is not a URL that can be read"):
            find(url)

    def test_a_name_is_shown_on_one_line(self):
        assert shown("a\nb\x1b[0m\udcff水.txt") == r"a\nb\x1b[0m\udcff水.txt"

    def test_identity_without_a_word_from_the_server_is_of_the_content(self, server):
        one, same, other = (
            server.serve(name, content, tag=None)
            for name, content in (("a", CONTENT), ("b", CONTENT), ("c", CONTENT[::-1]))
        )
        assert identity(one) == identity(same) != identity(other)

    def test_what_the_server_compresses_unasked_is_refused(self, server):
        url = server.serve("a.txt", CONTENT, headers={"Content-Encoding": "br"})
        with pytest.raises(UserError, match="sent as br"):
            read(url)
        assert read(server.serve("a.gz", CONTENT, headers={"Content-Encoding": "gzip"})) == CONTENT
