"""What launchers have to be sure of before they start anything."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

from data_pipeline.foundation.errors import UserError, printable

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")


def check_at_least(cluster: Any, least: Mapping[str, float]) -> None:
    """Refuse settings of a cluster that are too small; None is none. Raises UserError."""
    for key, smallest in least.items():
        value = getattr(cluster, key)
        if value is not None and value < smallest:
            raise UserError(f"cluster.{key}={value} must be at least {smallest}")


def check_devices(processes: int | None) -> int:
    """Return the number of processes of this machine: as many as asked for, or as there are GPUs, or one.

    Raises:
        UserError: there are GPUs, and fewer than processes.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes is None:
        return max(1, gpus)
    if gpus and processes > gpus:
        raise UserError(f"cluster.processes={processes}: this machine has {gpus} GPUs, and each process needs its own")
    return processes


def require_host_name(key: str, host: str) -> None:
    """Refuse what can't be a machine's name or address, and may be more to a shell. Raises UserError."""
    if not HOST.fullmatch(host):
        raise UserError(
            f"{key}={printable(host)!r} isn't a machine's name or address: letters, digits, dots and dashes"
        )


def require_resolvable(key: str, host: str) -> None:
    """Refuse the name of a machine that nobody knows. Raises UserError."""
    require_host_name(key, host)
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(f"{key}={host}: no machine of that name is known here ({error.strerror or error})") from None
