"""One job per run folder: who trains there says so in a file, and lets go of it in whatever way it ends.

On one machine the operating system's lock on the file (flock) decides: it goes with the process, so a killed run can be
started again at once. Where the folder is shared, such a lock may not reach other machines. So the file also holds a
lease: host, process and boot; its time of change is renewed every `BEAT_SECONDS`. A lease of another host that isn't
renewed for `STALE_SECONDS` is taken over, by the file system's own clock; one that is renewed is respected. A process
that finds its lease taken over, because it was suspended for so long or both began at once, ends: the run is another's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.progress import say
from train.heartbeats import this_machine

LOCK = "lock"
BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
LOOK_SECONDS = 1.0
TAKEN_OVER = 1
"""Exit code of a process whose lease another host has taken."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer."""


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if need be, while the block runs.

    Raises:
        UserError: another job trains in it.
        Failure: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Failure(f"{folder} can't be written ({error.strerror}): choose another run.root or mend it") from None
    try:
        lease = _take(descriptor, folder)
        ended = threading.Event()
        beat = threading.Thread(target=_renew, args=(folder, lease, ended), name="run-lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            # An empty file is nobody's, on any host. The file stays: a name that comes and goes can't be locked safely.
            with contextlib.suppress(OSError):
                if _holder(folder) == lease:
                    os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> dict[str, Any]:
    """Return our lease, written down."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        raise _in_use(folder, _holder(folder)) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise Failure(f"{folder / LOCK} can't be locked: {error.strerror}") from None
        locked = False
    lease: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": this_machine(),
        "born": _birth(os.getpid()),
        "token": secrets.token_hex(8),
    }
    holder = _holder(folder)
    is_local = holder is not None and (holder["host"], holder["boot"]) == (lease["host"], lease["boot"])
    # With the lock in hand, whoever held it on this machine is dead.
    if holder and is_local and not locked and _birth(holder["pid"]) == holder["born"]:
        raise _in_use(folder, holder)
    try:
        if holder and not is_local:
            _wait_for_sign_of_life(folder, holder)
        text = json.dumps(lease).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)
        os.fsync(descriptor)
    except OSError as error:
        raise Failure(f"{folder / LOCK} can't be written: {error.strerror}") from None
    return lease


def _holder(folder: Path) -> dict[str, Any] | None:
    """Return the lease in the file; None where nobody holds it, or what is there is none."""
    try:
        lease = json.loads((folder / LOCK).read_bytes())
        return {key: lease[key] for key in ("host", "pid", "boot", "born", "token")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _wait_for_sign_of_life(folder: Path, holder: dict[str, Any]) -> None:
    """Return when another host's lease has not been renewed for long enough. Raises UserError: it is renewed."""
    seen = _changed(folder)
    told = False
    while (age := _file_system_now(folder) - _changed(folder)) < STALE_SECONDS:
        if _changed(folder) != seen:
            if _holder(folder) is None:
                return
            raise _in_use(folder, holder)
        if not told:
            told = True
            say(
                escape(
                    f"{folder} was last held by process {holder['pid']} on {holder['host']}: waiting "
                    f"{STALE_SECONDS - age:.0f} s for a sign of life from it"
                )
            )
        time.sleep(LOOK_SECONDS)


def _renew(folder: Path, lease: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        holder = _holder(folder)
        if holder is not None and holder != lease:
            print(
                f"headrace train: {folder} was taken over by process {holder['pid']} on {holder['host']}, because this "
                f"one gave no sign of life for {STALE_SECONDS:.0f} s; it ends here",
                file=sys.stderr,
                flush=True,
            )
            os._exit(TAKEN_OVER)
        # A disk that can't be reached for a while is no reason to stop; whoever takes the run over is seen afterwards.
        with contextlib.suppress(OSError):
            os.utime(folder / LOCK)


def _in_use(folder: Path, holder: dict[str, Any] | None) -> UserError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return UserError(
        f"{folder} is in use: {who} trains there. Wait for it, stop it (kill {holder['pid'] if holder else 'PID'}), "
        "or give this run another run.name"
    )


def _changed(folder: Path) -> float:
    return os.stat(folder / LOCK).st_mtime


def _file_system_now(folder: Path) -> float:
    """Return the time by the clock that the file's times are by."""
    probe = folder / f".{LOCK}.{secrets.token_hex(4)}.tmp"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _birth(pid: int) -> float | None:
    """Return when a process began, which tells it from a later one of the same number; None if there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
