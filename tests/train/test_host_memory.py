"""Memory that a CPU's process frees is kept, in huge pages where the system has them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import python, run_command

from train.host_memory import HUGE_PAGES

PAGES = 64 * 2**20 // 4096
TOUCH = """
import resource, torch
from train.distributed import ClusterConfig, join_world
join_world(ClusterConfig(threads=1, huge_pages={asked}))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    block = torch.empty({pages} * 1024).fill_(1.0)
    del block
    print(faults() - before)
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHuge")][0])
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")


def touched(folder: Path, asked: bool) -> tuple[list[int], int]:
    """Return the page faults of three uses of 64 MB, one after the other, and the bytes in huge pages at last."""
    finished = run_command(python("-c", TOUCH.format(asked=asked, pages=PAGES)), folder)
    assert finished.code == 0, finished.err
    *faults, huge = map(int, finished.out.split())
    return faults, huge * 1024


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[list[int], int]:
    return touched(tmp_path_factory.mktemp("kept"), asked=True)


def test_what_is_freed_is_mapped_anew_only_where_that_is_asked_for(kept, tmp_path):
    mapped, _ = touched(tmp_path, asked=False)
    assert max(kept[0][1:]) < PAGES / 100
    assert min(mapped) > PAGES / 2, "a test of nothing"


def test_the_first_use_takes_huge_pages_where_there_are_some(kept):
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text():
        pytest.skip("this system has no huge pages to give")
    faults, huge = kept
    assert faults[0] < PAGES / 10 and huge >= 32 * 2**20
