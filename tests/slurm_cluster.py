"""A real SLURM cluster on this machine: a controller, and nodes that are daemons with host names of their own.

It needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
PATIENCE_SECONDS = 60.0


def why_no_cluster() -> str | None:
    """Return what this machine lacks, if anything."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"SLURM isn't installed (no {', '.join(missing)})"
    return "root is needed for nodes with host names of their own" if os.getuid() else None


class Cluster:
    """A running cluster; made by `cluster`. All its files, sockets and keys lie in one folder."""

    def __init__(self, folder: Path, nodes: Sequence[str]):
        self.folder, self.nodes = folder, nodes
        self.configuration = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", "run"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.configuration.write_text(self._configuration())
        munge = {"socket": self._socket, "key-file": key, "pid-file": self.folder / "run" / "munged.pid"}
        munge |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munged.seed"}
        self._start("munged", ["--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items())])
        wait_until(self._socket.exists, "munged")
        self._start("slurmctld", ["-D", "-i"])
        for node in self.nodes:
            self.start_node(node)
        wait_until(lambda: self.states() == {node: "idle" for node in self.nodes}, "the nodes")

    def start_node(self, node: str) -> None:
        """Start a node's daemon with the node's host name."""
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        named = ["--uts", "sh", "-c", f"hostname {node} && exec slurmd -D -N {node}"]
        self._start("unshare", named, name=node)

    def lose_node(self, node: str) -> None:
        """Kill everything that runs on a node, and don't let SLURM wait for a sign of life."""
        self.kill_node(node)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def kill_node(self, node: str) -> None:
        namespace = os.readlink(f"/proc/{self._daemons[node].pid}/ns/uts")
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/uts") == namespace:
                    process.kill()
        self._daemons.pop(node).wait()

    def states(self) -> dict[str, str]:
        """Return the state of each node."""
        lines = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return {name: state for name, state in (line.split() for line in lines)}

    def ask(self, *command: str) -> str:
        """Return what a command of SLURM's prints; nothing if it fails."""
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=30).stdout

    def active(self) -> list[str]:
        """Return array id, rank and state of all tasks that wait or run."""
        return self.ask("squeue", "--noheader", "--array", "--format=%F %K %T").splitlines()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def stop(self) -> None:
        """End all daemons, the nodes with whatever runs on them."""
        for node in self.nodes:
            if node in self._daemons:
                self.kill_node(node)
        for process in reversed(self._daemons.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def _socket(self) -> Path:
        return self.folder / "run" / "munge.socket"

    def _start(self, program: str, arguments: Sequence[object], name: str | None = None) -> None:
        with open(self.folder / f"{name or program}.log", "ab") as log:
            self._daemons[name or program] = subprocess.Popen(
                [program, *map(str, arguments)],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _configuration(self) -> str:
        ports = _free_ports(1 + len(self.nodes))
        settings = {
            "ClusterName": "tests",
            "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            # a task that is started again waits until its credential has expired
            "AuthInfo": f"socket={self._socket},cred_expire=5",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool-%n",
            "SlurmctldPidFile": self.folder / "run" / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "run" / "slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "JobAcctGatherType": "jobacct_gather/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_delay=0",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "KillWait": 3,
            "CompleteWait": 0,
            "MailProg": "/bin/true",
            # a job in `urgent` takes the nodes of those in `main`, which go back to the queue
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        for node, port in zip(self.nodes, ports[1:]):
            lines.append(f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000")
        common = f"Nodes={','.join(self.nodes)} MaxTime=60 DefaultTime=10 State=UP"
        lines.append(f"PartitionName=main {common} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30")
        lines.append(f"PartitionName=urgent {common} PriorityTier=10 PreemptMode=OFF")
        return "\n".join(lines) + "\n"


@contextmanager
def cluster(folder: Path, nodes: Sequence[str] = ("node1", "node2")) -> Iterator[Cluster]:
    """Start a cluster; stop it when the block ends."""
    running = Cluster(folder, nodes)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.05)
