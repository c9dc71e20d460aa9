"""Processes find each other, also where a launcher has kept what dead ones have left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from data_pipeline.foundation.errors import Failure
from train.distributed import fresh_store

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
    with pytest.raises(Failure, match="rank 1 waited 1 s for the other processes"):
        join(1, timedelta(seconds=1)).result()
