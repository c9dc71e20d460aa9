"""Several hosts on this machine: network namespaces on a bridge, each with an address, a host name and a cable.

It needs root and iproute2. They share files, processes and the clock with this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("ip", "nsenter", "unshare")


def why_no_hosts() -> str | None:
    """Return what this machine lacks, if anything."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"no {', '.join(missing)} here"
    if os.getuid():
        return "root is needed for network namespaces"
    probe = f"probe-{os.getpid()}"
    made = _ip("netns", "add", probe, check=False)
    _ip("netns", "del", probe, check=False)
    return None if made.returncode == 0 else f"network namespaces can't be made here: {made.stderr.strip()}"


@dataclass(frozen=True)
class Hosts:
    """Running hosts; made by `hosts`.

    Args:
        addresses: by name.
    """

    addresses: dict[str, str]
    _bridge: str
    _cables: dict[str, str] = field(repr=False)

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """Return what runs a command on a host; the process started is the command's own."""
        script = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{host}", "unshare", "--uts", "--mount", "sh", "-c", script]
        return [*enter, host, str(self.names), *command]

    @property
    def names(self) -> Path:
        """Return the file by which they know each other."""
        return Path("/run/netns") / f".{self._bridge}.hosts"

    def cut(self, host: str) -> None:
        """Pull a host's cable: its packets vanish, and nobody is told."""
        _ip("link", "set", self._cables[host], "nomaster")

    def mend(self, host: str) -> None:
        _ip("link", "set", self._cables[host], "master", self._bridge)


@contextmanager
def hosts(count: int = 2) -> Iterator[Hosts]:
    """Make hosts; remove them when the block ends."""
    bridge, number = f"hr{os.getpid()}", os.getpid() % 200
    names = [f"{bridge}-{each}" for each in range(1, count + 1)]
    addresses = {name: f"10.66.{number}.{each}" for each, name in enumerate(names, 1)}
    made = Hosts(addresses, bridge, {name: f"v{name}" for name in names})
    try:
        _ip("link", "add", bridge, "type", "bridge")
        # This machine is on the bridge too, as the last host.
        _ip("addr", "add", f"10.66.{number}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for name, address in addresses.items():
            _ip("netns", "add", name)
            _ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("link", "set", f"v{name}", "master", bridge, "up")
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        made.names.write_text("127.0.0.1 localhost\n" + "".join(lines))
        yield made
    finally:
        made.names.unlink(missing_ok=True)
        for name in names:
            # A namespace lives as long as a process in it; what tests have left there ends here.
            left = _ip("netns", "pids", name, check=False).stdout.split()
            for pid in left:
                subprocess.run(["kill", "-9", pid], capture_output=True)
            _ip("link", "del", f"v{name}", check=False)
            _ip("netns", "del", name, check=False)
        _ip("link", "del", bridge, check=False)


class SshServers:
    """An sshd on each host, and an `ssh` that knows them; needs openssh-server.

    Args:
        folder: for keys, settings and logs.
    """

    def __init__(self, running: Hosts, folder: Path):
        self._hosts, self._folder = running, folder
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SshServers:
        folder = self._folder
        (folder / "bin").mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        server = f"""
            HostKey {folder}/host_key
            AuthorizedKeysFile {folder}/user_key.pub
            PermitRootLogin prohibit-password
            PasswordAuthentication no
            StrictModes no
            UsePAM no
            PidFile none
        """
        client = f"""
            User root
            IdentityFile {folder}/user_key
            IdentitiesOnly yes
            StrictHostKeyChecking no
            UserKnownHostsFile /dev/null
            LogLevel ERROR
        """
        (folder / "sshd_config").write_text(server)
        (folder / "ssh_config").write_text(client)
        ssh = folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/ssh_config "$@"\n')
        ssh.chmod(0o755)
        # In a PID namespace: DeepSpeed's launcher ends what it has left by `pkill -f` on each host.
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        for host in self._hosts.addresses:
            with open(folder / f"{host}.log", "ab") as log:
                command = [*alone, "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
                server_process = subprocess.Popen(
                    self._hosts.command(host, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                self._servers.append(server_process)
        for host, address in self._hosts.addresses.items():
            deadline = time.monotonic() + 20
            while subprocess.run([ssh, address, "true"], capture_output=True).returncode:
                assert time.monotonic() < deadline, (folder / f"{host}.log").read_text()
                time.sleep(0.1)
        return self

    @property
    def bin(self) -> Path:
        """Return the folder of the `ssh` that knows the hosts, for PATH."""
        return self._folder / "bin"

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.kill()  # --kill-child takes all of its children along
            server.wait()


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"ip {' '.join(arguments)}: {done.stderr}"
    return done
