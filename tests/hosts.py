"""Several hosts on this machine: each has its own network, address, name and boot, and a cable that can be cut.

A host is a network namespace on a common bridge; files are shared, as on a cluster. It needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "eth0"
ENTER = 'hostname "$0" && mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'


@dataclass(frozen=True)
class Host:
    """One of them.

    Args:
        name: also of its namespace.
        address: on the common network, which its interface `eth0` leads to.
        cable: the bridge's end of it.
        boot: file with the number by which a kernel tells its boots apart.
    """

    name: str
    address: str
    cable: str
    boot: Path

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one on this host, as the same process."""
        network = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--uts", "--mount"]
        return [*network, "sh", "-c", ENTER, self.name, str(self.boot), *command]

    def cut(self) -> None:
        ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        ip("link", "set", self.cable, "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def hosts(folder: Path, count: int = 2) -> Iterator[list[Host]]:
    """Give some hosts while the block runs.

    Args:
        folder: for what they need.

    Raises:
        NoHosts: this machine can't have any; says why.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        raise NoHosts("network namespaces need root and `ip`")
    own = os.getpid() % 100_000
    bridge, subnet = f"hr{own}", f"10.213.{own % 250}"
    numbers = range(1, count + 1)
    made = [Host(f"host{n}-{own}", f"{subnet}.{n}", f"hr{own}-{n}", folder / f"boot-of-host{n}") for n in numbers]
    try:
        try:
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
            for host in made:
                host.boot.write_text(f"{uuid.uuid4()}\n")
                ip("netns", "add", host.name)
                ip("link", "add", host.cable, "type", "veth", "peer", "name", INTERFACE, "netns", host.name)
                ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
                ip("link", "set", host.cable, "master", bridge, "up")
                for interface in ("lo", INTERFACE):
                    ip("-n", host.name, "link", "set", interface, "up")
            subprocess.run(made[0].inside("true"), check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise NoHosts(f"no network namespaces here: {error.stderr.decode().strip()}") from None
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "link", "delete", host.cable], capture_output=True)
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


class NoHosts(Exception):
    """Hosts can't be made here."""
