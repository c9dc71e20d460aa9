"""What the processes of a run find in their environment, by rules; what the user has set already is left alone.

headrace doctor                                     shows it for this machine
python -m launch.environment HOST RANKS             prints it for a shell, on one of several machines
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""That torchrun passes on to its processes; by default a SIGUSR1, the scheduler's warning, would end it alone."""


@dataclass(frozen=True)
class Variable:
    """A variable, its value, and the rule that it comes from."""

    name: str
    value: str
    why: str
    is_users: bool = False


def rank_variables(host: str | None, ranks: int, environment: Mapping[str, str] = os.environ) -> list[Variable]:
    """Return what is set for processes on this machine.

    Args:
        host: where the processes of several machines meet; None if all are on this one.
        ranks: processes on this machine.

    Raises:
        OSError: the host's name can't be resolved, or no interface leads there.
    """
    rules = [
        Variable("OMP_NUM_THREADS", str(max(1, _cores() // ranks)), f"{_cores()} cores for {ranks} processes"),
        Variable(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
            "1",
            "a machine that was lost can come back only to a store of its own",
        ),
        Variable("TORCHELASTIC_SIGNALS_TO_HANDLE", SIGNALS, "SLURM warns by SIGUSR1; by default it would end torchrun"),
        Variable("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", "a rank whose collective timed out ends"),
        Variable("PYTHONUNBUFFERED", "1", "what a process says is wanted also when it is killed"),
    ]
    if host is not None:
        interface = interface_towards(host)
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            rules.append(Variable(name, interface, f"the interface that leads to {host}"))
    return [
        Variable(rule.name, environment[rule.name], "set by you", True) if rule.name in environment else rule
        for rule in rules
    ]


def address_towards(host: str) -> str:
    """Return this machine's address on the way to a host. No packet is sent. Raises OSError."""
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return probe.getsockname()[0]


def interface_towards(host: str) -> str:
    """Return the network interface on the way to a host. Raises OSError."""
    import psutil

    address = address_towards(host)
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        if any(known.address.partition("%")[0] == address for known in addresses):
            return name
    raise OSError(f"no interface has the address {address}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(host: str, ranks: str) -> int:
    try:
        variables = rank_variables(host, int(ranks))
    except OSError as error:
        print(f"headrace: {host} can't be reached from {socket.gethostname()}: {error}", file=sys.stderr)
        return 1
    print(f"address={address_towards(host)}  # of this machine, on the way there")
    for variable in variables:
        if not variable.is_users:
            print(f"export {variable.name}={shlex.quote(variable.value)}  # {variable.why}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
