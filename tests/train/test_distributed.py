"""Processes find each other, also where a launcher has kept what dead ones have left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

import pytest
from commands import free_port
from torch.distributed import PrefixStore, TCPStore

from data_pipeline.foundation.errors import Failure
from train.distributed import ClusterConfig, fresh_store, join_world

TIMEOUT = timedelta(seconds=30)


@pytest.fixture
def torchruns() -> TCPStore:
    """The store of torchrun's agent, which outlives its workers."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)


@pytest.fixture
def ranks() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_ranks_that_are_started_again_don_t_meet_the_dead_whoever_comes_first(torchruns, ranks):
    def join(rank: int, timeout: timedelta = TIMEOUT) -> Future[PrefixStore]:
        own = TCPStore("127.0.0.1", torchruns.port, wait_for_workers=False, timeout=timeout)
        return ranks.submit(fresh_store, own, rank, 3, timeout)

    for order in [(0, 1, 2), (2, 1, 0), (1, 0, 2)]:
        joining = {}
        for rank in order:
            joining[rank] = join(rank)
            if len(joining) < 3:
                assert wait(joining.values(), timeout=0.3).done == set(), "nobody goes on alone"
        stores = [joining[rank].result() for rank in range(3)]
        assert not stores[1].check(["address"])
        stores[0].set("address", str(order))
        assert [store.get("address").decode() for store in stores] == [str(order)] * 3
    with pytest.raises(RuntimeError, match="they have not all come in 1 s"):
        join(1, timedelta(seconds=1)).result()


def test_who_finds_nobody_says_so_in_one_line(monkeypatch):
    port = free_port()
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(Failure) as told:
        join_world(ClusterConfig(timeout_seconds=2, threads=1))
    assert str(told.value).startswith(f"rank 1 can't meet the other 1 by 127.0.0.1:{port}: ")
    assert "\n" not in str(told.value)
