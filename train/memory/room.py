"""The memory that there is for a rank, and whether what it needs fits into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.foundation.errors import UserError
from train.memory.footprint import Footprint

FRAGMENTATION = 0.06
"""Of what is held at the peak, lost to gaps that the allocator keeps. An allowance, not a measurement."""

RESERVED = {True: 1.5e9, False: 0.3e9}
"""Bytes that a process takes beside tensors. On a GPU context, kernels and NCCL's buffers: an allowance. On a CPU the
libraries, resident after their import: measured at 0.27 GB."""

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CONTROL_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and details of a container's memory, in the second version of control groups and in the first."""


@dataclass(frozen=True)
class Room:
    """Bytes that a rank can still have.

    Args:
        device: on its device.
        host: in host memory; on a CPU that is the device.
    """

    device: float
    host: float
    is_gpu: bool

    def without(self, host: float) -> Room:
        """Return what is left when so many bytes of host memory are used for something else."""
        return Room(self.device if self.is_gpu else self.device - host, self.host - host, self.is_gpu)


def needed(footprint: Footprint, is_gpu: bool) -> float:
    """Return the bytes to be had on the device: the peak, an allowance for gaps, and what isn't tensors."""
    return footprint.peak.total * (1 + FRAGMENTATION) + RESERVED[is_gpu]


def find_room(ranks_here: int, local_rank: int) -> Room:
    """Return this rank's room: its GPU's free memory, and an equal share of what the machine has left.

    Args:
        ranks_here: processes of the run on this machine.
    """
    host = available_host_memory() / ranks_here
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            # There is no such GPU, which whoever joins the processes says better.
            return Room(float("inf"), host, True)
        free, _ = torch.cuda.mem_get_info(local_rank)
        return Room(float(free), host, True)
    return Room(host, host, False)


def available_host_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = CONTROL_GROUPS) -> float:
    """Return the bytes that this machine, or the container around this process, can still give; infinite if unknown.

    Files that a container has read count as used there until they are dropped, so those are taken off.
    """
    available = float("inf")
    if meminfo.exists():
        available = min(available, _fields(meminfo).get("MemAvailable:", float("inf")) * 1024.0)
    for limit, usage, details in CONTROL_FILES:
        try:
            most, used = (groups / limit).read_text().strip(), (groups / usage).read_text().strip()
        except OSError:
            continue
        if most.isdigit() and used.isdigit():
            stat = groups / details
            droppable = _fields(stat).get("inactive_file", 0) if stat.exists() else 0
            available = min(available, float(int(most) - int(used) + droppable))
    return max(0.0, available)


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines `NAME NUMBER`."""
    words = [line.split() for line in path.read_text().splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def check_room(footprint: Footprint, room: Room, mends: Callable[[], list[str]]) -> str | None:
    """Refuse what can't fit; return a warning where it is tight, or None.

    Args:
        mends: finds settings that would need less, the best first.

    Raises:
        UserError: less is there than the tensors alone will take.
    """
    what = "GPU" if room.is_gpu else "machine's share for a process"
    peak = footprint.peak.total
    told = f"a rank will hold {gigabytes(peak)} ({footprint.moment}); its {what} has {gigabytes(room.device)}"
    if peak > room.device:
        raise UserError(f"this can't fit: {told}. {_advice(mends())}")
    if room.is_gpu and footprint.host > room.host:
        raise UserError(
            f"this can't fit: a rank will hold {gigabytes(footprint.host)} in host memory, of which its share is "
            f"{gigabytes(room.host)}. Offload less, or start fewer processes on a machine"
        )
    if needed(footprint, room.is_gpu) > room.device:
        return f"memory is tight: {told}, and gaps and libraries come on top. {_advice(mends())}"
    return None


def _advice(mends: list[str]) -> str:
    if not mends:
        return "Use more processes or a smaller model, or offload: zero=3_offload"
    return "With less: " + "; ".join(mends)


def ranks_on_this_machine(ranks: int) -> int:
    """Return how many processes the launcher has started here."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(local) if local.isdigit() and int(local) else ranks


def gigabytes(size: float) -> str:
    """Return bytes as a person reads them: `640 MB`, `61.3 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
