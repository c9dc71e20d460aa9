"""The processes of a run: how they find each other, which device each has, how they agree."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from data_pipeline.foundation.errors import Failure, ToldElsewhere, UserError
from train.host_memory import keep_host_memory

POLL_SECONDS = 0.05


@dataclass
class ClusterConfig:
    """Where a run happens.

    Args:
        kind: `local`: the processes that are there; one without a launcher, or torchrun's or deepspeed's. `headrace
            train` knows more, and starts processes for which it is `local`.
        timeout_seconds: how long a process waits for the others in a collective before it gives up.
        hang_seconds: without an end of a step, until all processes write down where they are and end with exit code 69.
            The first step, checkpoints, validation and samples have six times as long. 0 waits for ever.
        straggler_ratio: a rank that takes so many times as long as the others for the same is named; 0 names none.
        threads: CPU threads of each process; None for OMP_NUM_THREADS, or an equal share of the machine's cores.
        bind_cores: keep each process on cores of its own, an equal share of those that it may use.
        huge_pages: without a GPU, keep memory that is freed, in huge pages where the system has them; else each tensor
            is mapped anew.
    """

    kind: str = "local"
    timeout_seconds: float = 1800.0
    hang_seconds: float = 600.0
    straggler_ratio: float = 1.5
    threads: int | None = None
    bind_cores: bool = False
    huge_pages: bool = True


@dataclass(frozen=True)
class World:
    """This process among all: its rank, its rank on this machine, the number of processes, its device."""

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether any rank's flag is set, the same on each."""
        return bool(self.sum(torch.tensor([float(flag)], device=self.device)).item())

    def barrier(self) -> None:
        if self.size > 1:
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's small value in rank order, the same on each."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Return what rank 0 gets from some work on every rank; if it fails there, every rank fails.

        Raises:
            UserError, Failure: on rank 0, as the work raised it.
            ToldElsewhere: on the other ranks, which need not say it again.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except (UserError, Failure) as caught:
                error = caught
        result, exit_code = self.from_main((result, error.exit_code if error else None))
        if error is not None:
            raise error
        if exit_code is not None:
            raise ToldElsewhere(exit_code)
        return result

    def from_main(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


def launched_size() -> int:
    """Return how many processes the launcher started, before any of them has spoken to another."""
    return _from_environment("WORLD_SIZE", 1)


def launched_local_rank() -> int:
    """Return which of this machine's processes the launcher says this is."""
    return _from_environment("LOCAL_RANK", 0)


def join_world(config: ClusterConfig) -> World:
    """Meet the other processes; without a launcher this process is the whole world, and no port is opened.

    Raises:
        UserError: the launcher's variables are incomplete.
        Failure: there are fewer GPUs than local ranks, or the other processes can't be reached.
    """
    rank, local_rank, size = _from_environment("RANK", 0), launched_local_rank(), launched_size()
    if config.bind_cores:
        _bind_cores(local_rank, _from_environment("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    else:
        torch.set_num_threads(config.threads or _fair_threads(size))
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise Failure(
                f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}. "
                "Start at most one process per GPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        if config.huge_pages:
            keep_host_memory()
    timeout = timedelta(seconds=config.timeout_seconds)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if size == 1:
        # Some of DeepSpeed's helpers read these even where nothing is to be found.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1, timeout=timeout)
    else:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise UserError(
                    f"WORLD_SIZE={size} is set but {name} is not: start with torchrun or deepspeed, or unset WORLD_SIZE"
                )
        try:
            store, *_ = next(distributed.rendezvous("env://", timeout=timeout))
            fresh = fresh_store(store, rank, size, timeout)
            distributed.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=timeout)
        except RuntimeError as error:
            at, reason = "{MASTER_ADDR}:{MASTER_PORT}".format(**os.environ), str(error).splitlines()[0]
            raise Failure(
                f"rank {rank} can't meet the other {size - 1} by {at}: {reason}. See that all were started and reach "
                "each other, then start the run again"
            ) from None
    return World(rank, local_rank, size, device)


def fresh_store(store: distributed.Store, rank: int, size: int, timeout: timedelta) -> distributed.Store:
    """Return a part of a launcher's store, the same on every rank, that holds nothing yet.

    torchrun hands a job that it starts again the store of the one before, with the addresses of processes that are
    dead: who is quick reads them and can't connect. So rank 0 calls under a name of its own, each rank answers with a
    name of its own, and believes only a list in which that is.

    Raises:
        RuntimeError: some rank doesn't come.
    """
    name, until = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("headrace", name)
        store.set(f"{name}/all", " ".join(store.get(f"{name}/{other}").decode() for other in range(1, size)))
        return distributed.PrefixStore(name, store)
    while time.monotonic() < until:
        call = store.get("headrace").decode()
        store.set(f"{call}/{rank}", name)
        if store.check([f"{call}/all"]) and name in store.get(f"{call}/all").decode().split():
            return distributed.PrefixStore(call, store)
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"they have not all come in {timeout.total_seconds():.0f} s (cluster.timeout_seconds)")


def _fair_threads(size: int) -> int:
    """Return this process's share of the cores it may use.

    OMP_NUM_THREADS counts only without a launcher: torchrun sets it to 1 where the user has said nothing.
    """
    if size == 1 and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _from_environment("LOCAL_WORLD_SIZE", size))


def _bind_cores(local_rank: int, local_ranks: int) -> None:
    """Keep this process on its share of the cores, where there is at least one for each process."""
    cores = sorted(os.sched_getaffinity(0))
    if share := cores[local_rank * len(cores) // local_ranks : (local_rank + 1) * len(cores) // local_ranks]:
        os.sched_setaffinity(0, share)


def leave_world() -> None:
    """Close the process group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"the environment variable {name} is `{text}`; a launcher sets it to a whole number")
    return int(text)
