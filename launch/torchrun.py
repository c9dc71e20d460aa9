"""`cluster=torchrun`: one torchrun on this machine, or the same command typed on each of several."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from launch.checks import check_at_least, check_devices, require_resolvable
from launch.environment import Variable, address_towards, rank_variables
from launch.job import Job
from launch.supervisor import SHUTDOWN_SECONDS, Supervisor
from train.distributed import ClusterConfig

PORT = 29400
OTHERS_SECONDS = 600
"""So long the first machine waits for the others."""


@dataclass
class TorchrunCluster(ClusterConfig):
    """Processes under torchrun.

    Args:
        processes: on each machine; None for one per GPU, or one where there is none.
        nodes: machines; on each the same command is typed, and all see the same folders.
        host: name or address of one of them, where they meet; needed for more than one.
        port: that is free there.
        restarts: after a hang, a lost machine or a failure, in a row without a new checkpoint.
    """

    kind: str = "torchrun"
    processes: int | None = None
    nodes: int = 1
    host: str | None = None
    port: int = PORT
    restarts: int = 3


def check_torchrun(cluster: TorchrunCluster) -> int:
    """Refuse what can't start from this machine; return the number of all processes.

    Raises:
        UserError: names the setting.
    """
    check_at_least(cluster, {"processes": 1, "nodes": 1, "restarts": 0})
    processes = check_devices(cluster.processes)
    if cluster.nodes > 1:
        if cluster.host is None:
            raise UserError(f"cluster.nodes={cluster.nodes} needs cluster.host=NAME of one of them, where all meet")
        if not 0 < cluster.port < 65536:
            raise UserError(f"cluster.port={cluster.port} isn't a port: give one from 1 to 65535")
        require_resolvable("cluster.host", cluster.host)
        if is_here(cluster.host):
            _require_free(cluster.host, cluster.port)
    elif cluster.host is not None:
        raise UserError(f"cluster.host={cluster.host} is for several machines: give cluster.nodes too")
    return processes * cluster.nodes


def torchrun_command(cluster: TorchrunCluster, module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that starts this machine's processes."""
    processes = check_devices(cluster.processes)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--max-restarts=0", f"--shutdown-timeout={SHUTDOWN_SECONDS}"]
    if cluster.nodes == 1:
        # Where several runs share a machine, each has to meet at a port of its own: a free one.
        command += ["--standalone"]
    else:
        assert cluster.host is not None
        meeting = {"is_host": str(is_here(cluster.host)).lower(), "join_timeout": OTHERS_SECONDS}
        command += [
            f"--nnodes={cluster.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={cluster.host}:{cluster.port}",
            f"--rdzv-conf={','.join(f'{key}={value}' for key, value in meeting.items())}",
            "--rdzv-id=headrace",
            f"--local-addr={address_towards(cluster.host)}",
        ]
    return [*command, "-m", module, *arguments]


def start_torchrun(job: Job, cluster: TorchrunCluster) -> Supervisor:
    """Return what runs a job under torchrun on this machine."""
    variables = {variable.name: variable.value for variable in _variables(cluster)}
    command = torchrun_command(cluster, job.module, job.arguments())
    return Supervisor(command, variables, job.folder, cluster.restarts, elsewhere=cluster.nodes > 1)


def shown_torchrun(job: Job, cluster: TorchrunCluster) -> str:
    """Return the same for a shell."""
    return for_shell(_variables(cluster), torchrun_command(cluster, job.module, job.arguments()))


def for_shell(variables: Sequence[Variable], command: Sequence[str]) -> str:
    """Return a command with its variables as a shell takes it, a line for each setting."""
    words = [f"{variable.name}={shlex.quote(variable.value)}" for variable in variables if not variable.is_users]
    return " \\\n  ".join([*words, *map(shlex.quote, _shortened(command))])


def _shortened(command: Sequence[str]) -> list[str]:
    """Return the command with the name that everyone knows, where it is the one beside this Python."""
    beside = Path(sys.executable).with_name("torchrun")
    if list(command[1:3]) == ["-m", "torch.distributed.run"] and beside.exists():
        return [str(beside), *command[3:]]
    return list(command)


def _variables(cluster: TorchrunCluster) -> list[Variable]:
    try:
        return rank_variables(cluster.host, check_devices(cluster.processes))
    except OSError as error:
        raise UserError(f"cluster.host={cluster.host} can't be reached from here: {error}") from None


def is_here(host: str) -> bool:
    """Tell whether a name or address is this machine's, by trying to listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"cluster.port={port} on {host} can't be used ({error.strerror}): choose another") from None
