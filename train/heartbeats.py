"""Signs of life: a small file per rank in the run's folder, by which ranks see who is behind and who is dead.

A rank holds a lock on its file, which the kernel lets go of when the process dies, however it dies; so on one machine
a death is seen at once. Of another machine one sees that the file has stopped changing. A rank that ends in good order
removes its file. Nothing here needs the network, which may be what has broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD_BYTES = 512


@dataclass(frozen=True)
class Heartbeat:
    """How far a rank is.

    Args:
        machine: that it runs on, whatever its name.
        beats: counts up while the process runs.
        step: that it is in.
        place: counts up within a step; all ranks go through the same places.
        phase: what it does there.
        seconds: for how long.
    """

    rank: int
    host: str
    machine: str
    pid: int
    beats: int
    step: int
    place: int
    phase: str
    seconds: float

    def __str__(self) -> str:
        where = f"rank {self.rank} ({self.host}, process {self.pid})"
        return f"{where} is at step {self.step:,}, {self.phase}, for {self.seconds:.0f} s"


@functools.cache
def this_machine() -> str:
    """Return what tells this machine from others, whatever its name: the locks of a file may not reach further."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def heartbeat_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"


class OwnHeartbeat:
    """This rank's file.

    Args:
        folder: of all ranks' files.
    """

    def __init__(self, folder: Path, rank: int):
        self._rank, self._path, self._beats = rank, heartbeat_path(folder, rank), 0
        folder.mkdir(parents=True, exist_ok=True)
        # A new file, not that of an earlier start, which somebody may still hold.
        self._path.unlink(missing_ok=True)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR)
        with contextlib.suppress(OSError):  # a file system without locks; a death is seen by silence alone
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, step: int, place: int, phase: str, seconds: float) -> None:
        self._beats += 1
        host, pid = socket.gethostname(), os.getpid()
        beat = Heartbeat(self._rank, host, this_machine(), pid, self._beats, step, place, phase, round(seconds, 1))
        # Always as long, in one write: a reader finds the old or the new one, or what it can't read.
        os.pwrite(self._descriptor, json.dumps(asdict(beat)).encode().ljust(RECORD_BYTES), 0)

    def close(self, in_good_order: bool = True) -> None:
        """Leave; if not in good order, the file stays and this rank counts as dead."""
        if in_good_order:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)


def read_heartbeat(folder: Path, rank: int) -> Heartbeat | None:
    """Return a rank's last sign of life; None where it has left in good order, or can't be read just now."""
    try:
        return Heartbeat(**json.loads(heartbeat_path(folder, rank).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def has_died(folder: Path, rank: int) -> bool:
    """Return whether a rank that ran on this machine has ended, and not in good order."""
    beat = read_heartbeat(folder, rank)
    if beat is None or beat.machine != this_machine():
        return False
    try:
        descriptor = os.open(heartbeat_path(folder, rank), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return heartbeat_path(folder, rank).exists()
    except OSError:
        return False
    finally:
        os.close(descriptor)
