"""A cached file is the right one or isn't there; the limit holds; nobody waits for the dead; strangers stay."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import xxhash
from commands import kill_all, python, start_command, wait_until
from file_server import FileServer

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.manifest import StoredFile
from data_pipeline.storage import file_cache
from data_pipeline.storage.dataset_files import BadFile, NoRoom
from data_pipeline.storage.file_cache import FileCache

pytestmark = pytest.mark.timeout(60)
SIZE = 300_000
CONTENTS = [random.Random(number).randbytes(SIZE) for number in range(6)]
LARGE = random.Random(6).randbytes(3_000_000)


def stored(content: bytes, name: str = "file") -> StoredFile:
    return StoredFile(name, len(content), xxhash.xxh3_128_hexdigest(content))


FILES = [stored(content, f"file {number}") for number, content in enumerate(CONTENTS)]


@pytest.fixture
def urls(server: FileServer) -> list[str]:
    return [server.serve(str(number), content) for number, content in enumerate(CONTENTS)]


def cache_of(folder: Path, files: float = 10) -> FileCache:
    return FileCache(folder, int(files * SIZE))


def read(cache: FileCache, file: StoredFile, url: str) -> bytes:
    with cache.open(file, url) as opened:
        return opened.read()


def ours(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock", "waiting"}


def test_a_file_is_fetched_once_for_all_and_named_by_its_hash(server, urls, tmp_path):
    assert read(cache_of(tmp_path), FILES[0], urls[0]) == CONTENTS[0]
    assert read(cache_of(tmp_path), FILES[0], urls[0]) == CONTENTS[0]
    assert len(server.paths_asked) == 1
    assert ours(tmp_path) == {xxhash.xxh3_128_hexdigest(CONTENTS[0])}


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["status 503", "status 500", "status 429", "status 502", "status 504"], True),
        (["stall 0", "stall 10", "stall 100", "stall 1000", "stall 10000"], True),
        (["cut 0", "cut 1", "cut 1000", "cut 2000", "cut 0"], True),
        (["cut 25000", "status 503", "stall 20000", "cut 10", "stall 0"], False),
    ],
    ids=["refusals", "stalls", "cuts", "mixed, and the server sends no parts"],
)
def test_five_failures_in_a_row_are_survived(server, tmp_path, faults, ranges):
    url = server.serve("a", CONTENTS[0], faults=list(faults), ranges=ranges)
    assert read(cache_of(tmp_path), FILES[0], url) == CONTENTS[0]
    assert server.files["/a"].faults == []


@pytest.mark.parametrize("fault", ["status 503", "stall 1000", "cut 0", "status 404", "status 403"])
def test_what_can_not_be_had_is_given_up_by_name_and_leaves_nothing(server, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("data_pipeline.foundation.remote.READ_SECONDS", 0.05)
    url = server.serve("a.tar", CONTENTS[0], faults=[fault] * 1000)
    with pytest.raises(BadFile, match=r"a\.tar") as caught:
        cache_of(tmp_path).open(FILES[0], url)
    assert caught.value.name == "file 0"
    assert len(server.paths_asked) == (1 if fault.startswith("status 40") else file_cache.ATTEMPTS)
    assert ours(tmp_path) == set()


def test_a_server_that_is_endlessly_slow_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(file_cache, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(file_cache, "LEAST_BYTES_PER_SECOND", 1 << 30)
    monkeypatch.setattr("data_pipeline.foundation.remote.PROGRESS_BYTES", 1)
    url = server.serve("a", CONTENTS[0], faults=["trickle"] * 1000)
    with pytest.raises(BadFile, match="the server is too slow"):
        cache_of(tmp_path).open(FILES[0], url)
    assert ours(tmp_path) == set()


def flipped(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


WRONG = {
    "flipped": (flipped(CONTENTS[0]), "its checksum is not the manifest's"),
    "short": (CONTENTS[0][:-1], "has 299,999 bytes instead of 300,000"),
    "long": (CONTENTS[0] + b"\0", "has more bytes instead of 300,000"),
    "empty": (b"", "has 0 bytes instead of 300,000"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_once_is_fetched_again(server, tmp_path, how):
    url = server.serve("a", WRONG[how][0], later=[(CONTENTS[0], '"2"')])
    assert read(cache_of(tmp_path), FILES[0], url) == CONTENTS[0]


@pytest.mark.parametrize("how", WRONG)
def test_what_stays_wrong_is_refused_by_name_and_leaves_nothing(server, tmp_path, how):
    content, message = WRONG[how]
    url = server.serve("a.tar", content)
    with pytest.raises(BadFile, match=rf"a\.tar.*{message}"):
        cache_of(tmp_path).open(FILES[0], url)
    assert len(server.paths_asked) == file_cache.TRIES
    assert ours(tmp_path) == set()


def test_a_file_replaced_on_the_server_half_way_is_never_mixed(server, tmp_path):
    url = server.serve("a", LARGE, faults=["cut 1000000"], later=[(LARGE[::-1], '"2"')] * 9)
    with pytest.raises(BadFile, match="its checksum is not the manifest's"):
        FileCache(tmp_path, 10 * len(LARGE)).open(stored(LARGE), url)
    assert ours(tmp_path) == set()


def test_a_cached_file_damaged_on_disk_is_fetched_again(server, urls, tmp_path):
    read(cache_of(tmp_path), FILES[0], urls[0])
    path = tmp_path / FILES[0].xxh3_128
    for damaged in (flipped(CONTENTS[0]), CONTENTS[0][:-1], b""):
        path.write_bytes(damaged)
        assert read(cache_of(tmp_path), FILES[0], urls[0]) == CONTENTS[0]
        assert path.read_bytes() == CONTENTS[0]
    assert len(server.paths_asked) == 4


class TestRoom:
    def test_the_least_recently_used_make_room(self, urls, tmp_path):
        cache = cache_of(tmp_path, files=3)
        for number in (0, 1, 2, 0, 3):
            assert read(cache, FILES[number], urls[number]) == CONTENTS[number]
            time.sleep(0.01)  # the clock of the file system is coarse
        assert ours(tmp_path) == {FILES[number].xxh3_128 for number in (0, 2, 3)}

    @pytest.mark.parametrize("mapped", [True, False])
    def test_what_is_open_or_mapped_stays(self, urls, tmp_path, mapped):
        cache, other = cache_of(tmp_path, files=2), cache_of(tmp_path, files=2)
        held = cache.open(FILES[0], urls[0])
        if mapped:
            memory = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ)
            held.close()
        for number in (1, 2, 3):
            read(other, FILES[number], urls[number])
            assert FILES[0].xxh3_128 in ours(tmp_path)
        if mapped:
            assert memory[:] == CONTENTS[0]
            memory.close()
        else:
            held.close()
        read(other, FILES[4], urls[4])
        read(other, FILES[5], urls[5])
        assert FILES[0].xxh3_128 not in ours(tmp_path)

    def test_without_room_it_says_who_takes_it(self, urls, tmp_path):
        cache = cache_of(tmp_path, files=2)
        with (
            cache.open(FILES[0], urls[0]),
            cache.open(FILES[1], urls[1]),
            pytest.raises(NoRoom, match=r"no room for file 2 .*600,000 are in use by running processes: raise it"),
        ):
            cache.open(FILES[2], urls[2], patient=False)

    def test_who_waits_for_room_is_seen_and_gets_what_is_let_go(self, urls, tmp_path):
        cache, other = cache_of(tmp_path, files=1), cache_of(tmp_path, files=1)
        held = cache.open(FILES[0], urls[0])
        assert not cache.crowded()
        received: list[bytes] = []
        waiting = threading.Thread(target=lambda: received.append(read(other, FILES[1], urls[1])))
        waiting.start()
        while not cache.crowded():
            time.sleep(0.01)
        assert received == []
        held.close()
        waiting.join()
        assert received == [CONTENTS[1]]
        assert not cache.crowded()

    def test_waiting_for_room_ends(self, urls, tmp_path, monkeypatch):
        monkeypatch.setattr(file_cache, "ROOM_SECONDS", 0.3)
        cache = cache_of(tmp_path, files=1)
        with cache.open(FILES[0], urls[0]), pytest.raises(NoRoom):
            cache.open(FILES[1], urls[1])

    def test_a_file_larger_than_the_limit_is_refused(self, urls, tmp_path):
        with pytest.raises(UserError, match=r"file 0 has 300,000 bytes, and data\.cache\.gigabytes allows 150,000"):
            cache_of(tmp_path, files=0.5).open(FILES[0], urls[0])

    def test_room_for_what_arrives_is_taken_before_it_does(self, server, tmp_path):
        url = server.serve("a", CONTENTS[0], faults=["stall 1000"] * 3)
        cache = cache_of(tmp_path, files=1)
        first = threading.Thread(target=lambda: read(cache, FILES[0], url))
        first.start()
        while not list(tmp_path.glob("*.part")):
            time.sleep(0.01)
        with pytest.raises(NoRoom):
            cache_of(tmp_path, files=1).open(FILES[1], server.serve("b", CONTENTS[1]), patient=False)
        first.join()

    def test_ahead_nothing_is_removed_that_is_wanted_sooner(self, urls, tmp_path):
        cache = cache_of(tmp_path, files=2)
        cache.favour([FILES[0], FILES[1], FILES[2]])
        for number in (2, 1, 0):  # the last one takes the place of what is wanted latest
            cache.fetch(FILES[number], urls[number])
            time.sleep(0.01)
        assert ours(tmp_path) == {FILES[0].xxh3_128, FILES[1].xxh3_128}
        with pytest.raises(NoRoom):
            cache.fetch(FILES[2], urls[2])
        assert read(cache, FILES[2], urls[2]) == CONTENTS[2]  # what is needed now comes before all that may be
        assert ours(tmp_path) == {FILES[0].xxh3_128, FILES[2].xxh3_128}

    def test_strangers_stay(self, urls, tmp_path):
        folder, elsewhere = tmp_path / "cache", tmp_path / "precious"
        cache = cache_of(folder, files=1)
        elsewhere.write_bytes(bytes(SIZE))
        (folder / "thesis.tex").write_bytes(bytes(SIZE))
        (folder / ("a" * 31)).write_bytes(bytes(SIZE))
        (folder / ("a" * 32 + ".part")).write_bytes(bytes(SIZE))
        (folder / ("b" * 32)).mkdir()
        (folder / ("c" * 32)).symlink_to(elsewhere)
        (folder / ("d" * 32)).symlink_to(tmp_path / "nowhere")
        before = ours(folder)
        for number in range(3):
            read(cache, FILES[number], urls[number])
        assert before < ours(folder)
        assert elsewhere.read_bytes() == bytes(SIZE)

    @pytest.mark.parametrize("there", [True, False])
    def test_a_link_in_a_files_place_is_neither_followed_nor_replaced(self, urls, tmp_path, there):
        elsewhere, cache = tmp_path / "precious", cache_of(tmp_path / "cache")
        if there:
            elsewhere.write_bytes(CONTENTS[0])
        link = tmp_path / "cache" / FILES[0].xxh3_128
        link.symlink_to(elsewhere)
        with pytest.raises(Failure, match="symbolic links"):
            cache.open(FILES[0], urls[0])
        cache.fetch(FILES[0], urls[0])
        assert link.is_symlink() and elsewhere.exists() == there

    def test_a_full_disk_is_told_as_such(self, server, tmp_path):
        import resource

        url = server.serve("a", LARGE)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with pytest.raises(Failure, match=r"fails: .*choose another by data\.cache\.folder") as caught:
                FileCache(tmp_path, 10 * len(LARGE)).open(stored(LARGE), url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert not isinstance(caught.value, BadFile)
        assert read(FileCache(tmp_path, 10 * len(LARGE)), stored(LARGE), url) == LARGE

    def test_a_folder_that_can_not_be_made_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"data\.cache\.folder: .*can't be used"):
            cache_of(tmp_path / "file" / "cache")


class TestTogether:
    def test_while_one_fetches_the_others_wait_and_one_request_is_made(self, server, tmp_path):
        url = server.serve("a", CONTENTS[0], faults=["stall 1000"])
        received: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: received.append(read(cache_of(tmp_path), FILES[0], url))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert received == [CONTENTS[0]] * 8
        assert len(server.paths_asked) == 2  # the second goes on where the first stalled

    def test_who_waits_for_one_who_gives_up_gives_up_with_him(self, server, tmp_path):
        url = server.serve("a.tar", flipped(CONTENTS[0]), faults=["stall 1000"])
        problems: list[str] = []

        def try_it() -> None:
            with pytest.raises(BadFile) as caught:
                cache_of(tmp_path).open(FILES[0], url)
            problems.append(str(caught.value))

        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(problems) == 8 and len(set(problems)) == 1
        assert "a.tar is damaged" in problems[0]
        assert len(server.paths_asked) < 8 * file_cache.TRIES

    def test_who_waits_for_one_who_only_fetches_ahead_tries_for_himself(self, server, tmp_path):
        url = server.serve("a.tar", CONTENTS[0], faults=["stall 1000", "status 404"])
        problems: list[BadFile] = []

        def fetch_ahead() -> None:
            with pytest.raises(BadFile) as caught:
                cache_of(tmp_path).fetch(FILES[0], url)
            problems.append(caught.value)

        thread = threading.Thread(target=fetch_ahead)
        thread.start()
        while not list(tmp_path.glob("*.part")):
            time.sleep(0.01)
        assert read(cache_of(tmp_path), FILES[0], url) == CONTENTS[0]
        thread.join()
        assert len(problems) == 1

    def test_a_process_killed_half_way_leaves_what_the_next_one_goes_on_with(self, server, tmp_path):
        file = stored(LARGE)
        url = server.serve("a", LARGE, faults=["stall 2000000"])
        code = (
            "import sys; from pathlib import Path; from data_pipeline.manifest import StoredFile;"
            "from data_pipeline.storage.file_cache import FileCache;"
            "FileCache(Path(sys.argv[1]), 10**7).open(StoredFile('a', int(sys.argv[2]), sys.argv[3]), sys.argv[4])"
        )
        process = start_command(python("-c", code, str(tmp_path), str(file.bytes), file.xxh3_128, url), tmp_path)
        part = tmp_path / f"{file.xxh3_128}.{file.bytes}.part"
        try:
            wait_until(lambda: part.exists() and part.stat().st_size > 1_000_000, process)
        finally:
            kill_all(process)
        assert LARGE.startswith(part.read_bytes())
        assert read(FileCache(tmp_path, 10**7), file, url) == LARGE
        assert server.ranges_asked[0] is None
        assert int(server.ranges_asked[1].removeprefix("bytes=").removesuffix("-")) > 1_000_000
        assert ours(tmp_path) == {file.xxh3_128}

    @pytest.mark.parametrize("left", [b"", b"junk", flipped(CONTENTS[0])[:2000], CONTENTS[0], bytes(SIZE), LARGE])
    @pytest.mark.parametrize("ranges", [True, False])
    def test_whatever_a_dead_process_left_the_right_bytes_come_of_it(self, server, tmp_path, left, ranges):
        url = server.serve("a", CONTENTS[0], ranges=ranges)
        (tmp_path / f"{FILES[0].xxh3_128}.{SIZE}.part").write_bytes(left)
        assert read(cache_of(tmp_path), FILES[0], url) == CONTENTS[0]
        assert ours(tmp_path) == {FILES[0].xxh3_128}

    def test_what_a_dead_process_left_makes_room(self, urls, tmp_path):
        dead = tmp_path / f"{'e' * 32}.{SIZE}.part"
        dead.write_bytes(b"half")
        os.utime(dead, (0, 0))
        cache = cache_of(tmp_path, files=2)
        for number in range(2):
            read(cache, FILES[number], urls[number])
        assert not dead.exists()
