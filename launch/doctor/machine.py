"""Cores, memory, disk, clock, limits, and the environment that ranks get."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from launch.doctor.finding import GREEN, RED, YELLOW, Finding
from train.host_memory import HUGE_PAGES

GB = 1e9
DISK_PROBE_BYTES = 1 << 26
SLOW_DISK = 100e6
"""Bytes per second below which a checkpoint of a billion parameters takes two minutes."""
OPEN_FILES = 4096
CLOCK_SECONDS, CLOCK_LIMIT_SECONDS = 2.0, 60.0
"""Differences to a file system's clock: noted, and half of what makes a living run's lock look dead."""


def look_at_machine(folder: Path, ranks: int) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        folder: in which runs will be, or a folder above it.
        ranks: processes that the environment is shown for.
    """
    yield cores()
    yield memory()
    yield from huge_pages()
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    yield room(there)
    yield from disk(there)
    yield open_files()
    yield shared_memory()
    yield from variables(ranks)


def cores() -> Finding:
    usable, all_of_them = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load > 1.5 * all_of_them:
        return Finding(
            YELLOW, "cores", f"{usable} of {all_of_them}, and a load of {load:.0f}", "find out by `top` what else runs"
        )
    return Finding(GREEN, "cores", f"{usable} of {all_of_them}")


def memory() -> Finding:
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.available / GB:.0f} of {found.total / GB:.0f} GB free"
    if found.available < 2 * GB:
        return Finding(RED, "memory", text, "end what else runs")
    return Finding(GREEN, "memory", text)


def huge_pages() -> Iterator[Finding]:
    """Say whether a process that computes on the CPU gets the huge pages that it asks for; nothing where none exist."""
    try:
        modes = HUGE_PAGES.read_text().split()
    except OSError:
        return
    mode = next(mode.strip("[]") for mode in modes if mode.startswith("["))
    if mode == "never":
        mend = f"as root: echo madvise > {HUGE_PAGES}. Without a GPU training is a tenth faster by it"
        yield Finding(YELLOW, "huge pages", "never given", mend)
    else:
        yield Finding(GREEN, "huge pages", "given to all" if mode == "always" else "given to who asks")


def room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / GB:.0f} GB free at {folder}"
    if free < 1 * GB:
        return Finding(RED, "disk room", text, "make room, or choose another run.root")
    if free < 20 * GB:
        return Finding(YELLOW, "disk room", text, "a checkpoint takes 12 bytes per parameter: keep fewer, or make room")
    return Finding(GREEN, "disk room", text)


def disk(folder: Path) -> Iterator[Finding]:
    """Write and sync 64 MB, and compare the file's time with this machine's."""
    probe = folder / f".headrace-{secrets.token_hex(4)}.tmp"
    data = secrets.token_bytes(1 << 20)
    try:
        started = time.monotonic()
        with open(probe, "wb") as file:
            for _ in range(DISK_PROBE_BYTES // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        speed = DISK_PROBE_BYTES / (time.monotonic() - started)
        before = time.time()
        probe.touch()
        skew = probe.stat().st_mtime - (before + time.time()) / 2
    except OSError as error:
        yield Finding(RED, "disk", f"{folder} can't be written: {error.strerror}", "choose another run.root")
        return
    finally:
        probe.unlink(missing_ok=True)
    text = f"{speed / 1e6:,.0f} MB/s written and synced at {folder}"
    if speed < SLOW_DISK:
        yield Finding(YELLOW, "disk", text, "raise checkpoint.every, or choose a faster disk by run.root")
    else:
        yield Finding(GREEN, "disk", text)
    text = f"{abs(skew):.1f} s from that of the file system at {folder}"
    if abs(skew) > CLOCK_LIMIT_SECONDS:
        yield Finding(RED, "clock", text, "set the clock: chronyc makestep, or timedatectl set-ntp true")
    elif abs(skew) > CLOCK_SECONDS:
        yield Finding(YELLOW, "clock", text, "set the clock: chronyc makestep, or timedatectl set-ntp true")
    else:
        yield Finding(GREEN, "clock", text)


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft:,} at once, {hard:,} if asked for"
    if soft < OPEN_FILES:
        mend = f"ulimit -n {OPEN_FILES}" if hard >= OPEN_FILES else "raise nofile in /etc/security/limits.conf"
        return Finding(YELLOW, "open files", text, mend)
    return Finding(GREEN, "open files", text)


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return Finding(YELLOW, "shared memory", f"there is no {folder}", "mount -t tmpfs tmpfs /dev/shm")
    text = f"{free / GB:.1f} GB free"
    if free < GB:
        return Finding(YELLOW, "shared memory", text, "in a container: --shm-size=8g; else remove what is left in it")
    return Finding(GREEN, "shared memory", text)


def variables(ranks: int) -> Iterator[Finding]:
    """Show what ranks on this machine get in their environment, and why."""
    from launch.environment import rank_variables

    for variable in rank_variables(None, ranks):
        yield Finding(GREEN, "environment", f"{variable.name}={variable.value}: {variable.why}")
