"""What there is of memory, and what is said where it isn't enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.foundation.errors import UserError
from train.memory.footprint import Footprint, Held
from train.memory.room import Room, available_host_memory, check_room


def needing(device: int, host: int = 0) -> Footprint:
    return Footprint({"loss": Held(activations=device), "update": Held(optimizer=device // 2)}, host)


def no_mends() -> list[str]:
    return []


def test_what_fits_is_let_through_in_silence():
    assert check_room(needing(10**9), Room(4e9, 4e9, False), no_mends) is None


def test_what_cannot_fit_is_refused_with_figures_the_moment_and_what_would():
    with pytest.raises(UserError, match=r"will hold 5\.0 GB \(loss\); its GPU has 4\.0 GB\. With less: batch\.micro=1"):
        check_room(needing(5 * 10**9), Room(4e9, 4e9, True), lambda: ["batch.micro=1 needs 2.0 GB"])


def test_where_gaps_and_libraries_could_tip_it_there_is_a_warning():
    warning = check_room(needing(3_900_000_000), Room(4e9, 4e9, False), no_mends)
    assert warning and warning.startswith("memory is tight") and "zero=3_offload" in warning


def test_host_memory_that_offload_needs_is_counted_beside_a_gpus():
    with pytest.raises(UserError, match=r"8\.0 GB in host memory, of which its share is 4\.0 GB"):
        check_room(needing(10**9, host=8 * 10**9), Room(80e9, 4e9, True), no_mends)


def test_a_checkpoint_that_is_being_written_takes_host_memory():
    assert Room(80e9, 8e9, True).without(2e9) == Room(80e9, 6e9, True)
    assert Room(8e9, 8e9, False).without(2e9) == Room(6e9, 6e9, False)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal:  16000 kB\nMemAvailable:   8000 kB\n")
    return tmp_path


def test_a_machine_has_what_the_kernel_says_is_available(machine):
    assert available_host_memory(machine / "meminfo", machine) == 8000 * 1024


@pytest.mark.parametrize(
    ("limit", "usage", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_container_has_what_its_limit_leaves_and_files_it_has_read_do_not_count(machine, limit, usage, stat):
    (machine / "memory").mkdir()
    for name, text in ((limit, "6000000\n"), (usage, "4000000\n"), (stat, "anon 1000\ninactive_file 1500000\n")):
        (machine / name).write_text(text)
    assert available_host_memory(machine / "meminfo", machine) == 3_500_000


def test_a_container_without_a_limit_has_the_machines(machine):
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("4000000\n")
    assert available_host_memory(machine / "meminfo", machine) == 8000 * 1024


def test_where_nothing_tells_everything_is_let_through(tmp_path):
    assert available_host_memory(tmp_path / "none", tmp_path) == float("inf")
