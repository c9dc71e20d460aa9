"""Each part of a step has its own time alone, and measuring leaves nothing behind."""

from __future__ import annotations

import time

import pytest
import torch

from train.profile.parts import Parts


class Work:
    def outer(self) -> str:
        time.sleep(0.02)
        self.inner()
        return "done"

    def inner(self) -> None:
        time.sleep(0.05)


def test_what_runs_inside_a_part_is_taken_off_it_and_all_of_them_make_the_whole():
    work, parts = Work(), Parts(torch.device("cpu"))
    parts.wrap(work, "outer", "forward")
    parts.wrap(work, "inner", "communication")
    parts.begin()
    started = time.perf_counter()
    assert work.outer() == "done"
    time.sleep(0.01)
    told = parts.end()
    whole = time.perf_counter() - started
    assert told["communication"] >= 0.05 > 0.02 <= told["forward"] and told["other"] >= 0.01
    assert sum(told.values()) == pytest.approx(whole, abs=1e-3)
    assert told["forward"] + told["other"] < whole - 0.05 + 1e-3


def test_afterwards_everything_is_as_it_was_also_after_an_error():
    work, parts = Work(), Parts(torch.device("cpu"))
    before = torch.distributed.all_reduce, torch.distributed.Work.wait
    parts.wrap(work, "outer", "forward")
    parts.wrap_collectives()
    assert torch.distributed.all_reduce is not before[0]
    with pytest.raises(RuntimeError), parts.measuring("data"):
        raise RuntimeError
    parts.unwrap()
    assert "outer" not in vars(work)
    assert (torch.distributed.all_reduce, torch.distributed.Work.wait) == before
