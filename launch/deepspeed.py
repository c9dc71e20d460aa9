"""`cluster=deepspeed`: DeepSpeed's own launcher, on this machine, or from here to others over ssh or SLURM.

Its pdsh launcher puts the working folder, the environment and every argument into a command line that a shell on each
host reads. So settings go into a file, and what is left is refused where a shell could read more into it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data_pipeline.foundation.errors import UserError, printable
from data_pipeline.foundation.files import write_text
from launch.checks import check_at_least, check_devices, require_host_name, require_resolvable
from launch.environment import Variable, rank_variables
from launch.job import Job
from launch.supervisor import Supervisor, is_rank, is_srun
from launch.torchrun import for_shell
from train.distributed import ClusterConfig

LAUNCHERS = ("pdsh", "slurm")
SSH_SECONDS = 10
PLAIN = re.compile(r"[\w@%+=:,./-]+")
"""What no shell reads anything into."""
OWN_VARIABLES = (".deepspeed_env", "~/.deepspeed_env")


@dataclass
class DeepspeedCluster(ClusterConfig):
    """Processes under DeepSpeed's launcher.

    Args:
        processes: on each machine; None for a host's slots, or one per GPU, or one.
        hostfile: lines `HOST slots=N`; None for this machine alone.
        launcher: how other machines are reached: `pdsh` (ssh) or `slurm` (within an allocation).
        host: address that processes meet at; None for the first host of the file.
        port: that is free there.
        ssh_port: None for ssh's own choice.
        forward: names of environment variables that other machines get too, besides those that we set. `wandb login`
            reaches them by its file.
        restarts: after a hang, a lost machine or a failure, in a row without a new checkpoint.
    """

    kind: str = "deepspeed"
    processes: int | None = None
    hostfile: str | None = None
    launcher: str = "pdsh"
    host: str | None = None
    port: int = 29500
    ssh_port: int | None = None
    forward: list[str] = field(default_factory=list)
    restarts: int = 3


def check_deepspeed(cluster: DeepspeedCluster) -> int:
    """Refuse what can't start; return the number of all processes.

    Raises:
        UserError: names the setting or the host.
    """
    check_at_least(cluster, {"processes": 1, "port": 1, "ssh_port": 1, "restarts": 0})
    if cluster.launcher not in LAUNCHERS:
        raise UserError(f"cluster.launcher={cluster.launcher}: there are {' and '.join(LAUNCHERS)}")
    if cluster.hostfile is None:
        return check_devices(cluster.processes)
    hosts = read_hostfile(Path(cluster.hostfile))
    for host, slots in hosts.items():
        if cluster.processes is not None and cluster.processes > slots:
            raise UserError(f"cluster.processes={cluster.processes}: {host} has {slots} slots in {cluster.hostfile}")
        require_resolvable(cluster.hostfile, host)
    if cluster.host is not None:
        require_host_name("cluster.host", cluster.host)
    for what, text in {"working folder": os.getcwd(), "Python": sys.executable}.items():
        if not PLAIN.fullmatch(text):
            raise UserError(f"the {what} {printable(text)!r} has characters that a shell on another host would read")
    if cluster.launcher == "slurm":
        if len(set(hosts.values())) > 1:
            raise UserError(f"{cluster.hostfile}: SLURM wants as many slots on each host")
        if shutil.which("srun") is None or "SLURM_JOB_ID" not in os.environ:
            raise UserError("cluster.launcher=slurm works within an allocation (salloc): see also cluster=slurm")
    else:
        if shutil.which("pdsh") is None:
            raise UserError("cluster.launcher=pdsh needs pdsh: install the package `pdsh`, or use cluster=torchrun")
        _require_ssh(list(hosts), cluster.ssh_port)
    return sum(cluster.processes or slots for slots in hosts.values())


def read_hostfile(path: Path) -> dict[str, int]:
    """Return the slots of each host of a file. Raises UserError: names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cluster.hostfile={path} can't be read: {error}") from None
    hosts: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        found = re.fullmatch(r"(\S+)\s+slots=(\d+)", line)
        if found is None or int(found[2]) < 1:
            raise UserError(f"{path}, line {number}: {printable(line)!r} isn't HOST slots=N")
        require_host_name(f"{path}, line {number}", found[1])
        if found[1] in hosts:
            raise UserError(f"{path}, line {number}: {found[1]} is there twice")
        hosts[found[1]] = int(found[2])
    if not hosts:
        raise UserError(f"cluster.hostfile={path} has no hosts: write HOST slots=N, a line each")
    return hosts


def deepspeed_command(job: Job, cluster: DeepspeedCluster, arguments: Sequence[str]) -> list[str]:
    """Return the command of DeepSpeed's launcher."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", f"--master_port={cluster.port}", "--no_local_rank"]
    if cluster.hostfile is None:
        processes = check_devices(cluster.processes)
        return [*command, "--hostfile=", f"--num_gpus={processes}", "--module", job.module, *arguments]
    hosts = read_hostfile(Path(cluster.hostfile))
    command += [f"--hostfile={cluster.hostfile}", f"--launcher={cluster.launcher}", "--force_multi"]
    command += [f"--master_addr={cluster.host or socket.gethostbyname(next(iter(hosts)))}"]
    if cluster.processes is not None and cluster.launcher == "pdsh":
        command += [f"--num_gpus={cluster.processes}"]
    if cluster.ssh_port is not None:
        command += [f"--ssh_port={cluster.ssh_port}"]
    if cluster.launcher == "slurm":
        # It starts a file, not a module, and leaves ranks to whoever reads SLURM's variables.
        return [*command, "--no_ssh_check", str(Path(__file__).with_name("slurm_rank.py")), job.module, *arguments]
    return [*command, "--module", job.module, *arguments]


def start_deepspeed(job: Job, cluster: DeepspeedCluster) -> Supervisor:
    """Write what the processes need to know, and return what runs them.

    Raises:
        UserError: a variable or path that a shell on another host would read something into.
    """
    variables = _variables(cluster)
    environment = {variable.name: variable.value for variable in variables}
    if cluster.hostfile is None:
        command = deepspeed_command(job, cluster, job.arguments())
        return Supervisor(command, environment, job.folder, cluster.restarts, told=is_rank)
    forwarded = job.make_launch_folder().resolve() / "deepspeed_env"
    write_text(forwarded, "".join(f"{name}={value}\n" for name, value in forwarded_variables(cluster).items()))
    settings = forwarded.with_name("settings.yaml")
    write_text(settings, yaml.safe_dump(list(job.settings), allow_unicode=True))
    arguments = _plain_arguments(job, settings)
    environment |= {"DS_ENV_FILE": str(forwarded)}
    if cluster.launcher == "slurm":
        environment |= {"MASTER_ADDR": cluster.host or next(iter(read_hostfile(Path(cluster.hostfile))))}
        environment |= {"MASTER_PORT": str(cluster.port)}
    command = deepspeed_command(job, cluster, arguments)
    if cluster.launcher == "slurm":
        return Supervisor(command, environment, job.folder, cluster.restarts, told=is_srun)
    return Supervisor(command, environment, job.folder, cluster.restarts, leaves_ranks=True)


def shown_deepspeed(job: Job, cluster: DeepspeedCluster) -> str:
    """Return the same for a shell."""
    arguments = job.arguments()
    if cluster.hostfile is not None:
        arguments = _plain_arguments(job, job.launch_folder.resolve() / "settings.yaml")
    return for_shell(_variables(cluster), deepspeed_command(job, cluster, arguments))


def forwarded_variables(cluster: DeepspeedCluster) -> dict[str, str]:
    """Return what other machines get: what we set, what the user's own `.deepspeed_env` says, and what is named.

    Raises:
        UserError: a value that a shell there would read something into, or a name that isn't set.
    """
    found: dict[str, str] = {}
    for file in OWN_VARIABLES:
        path = Path(file).expanduser()
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, equals, value = line.partition("=")
                if equals:
                    found[name.strip()] = value.strip()
    for name in cluster.forward:
        if name not in os.environ:
            raise UserError(f"cluster.forward: {printable(name)} isn't set here")
        found[name] = os.environ[name]
    # Which interface leads to the first host is known only on each machine; and deepspeed exports PYTHON… by itself.
    ours = [variable for variable in _variables(cluster) if "IFNAME" not in variable.name]
    found = {variable.name: variable.value for variable in ours} | found
    exported = found | {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    for name, value in exported.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not PLAIN.fullmatch(value or "-"):
            raise UserError(
                f"the variable {printable(name)} has characters that a shell on another host would read: change it"
            )
    return found


def _variables(cluster: DeepspeedCluster) -> list[Variable]:
    import torch

    processes = cluster.processes or 1
    if cluster.hostfile is not None:
        processes = cluster.processes or min(read_hostfile(Path(cluster.hostfile)).values())
    variables = rank_variables(None, processes)
    if not torch.cuda.is_available() and "DS_ACCELERATOR" not in os.environ:
        variables.append(Variable("DS_ACCELERATOR", "cpu", "there is no GPU here"))
    return variables


def _plain_arguments(job: Job, settings: Path) -> list[str]:
    """Return arguments that no shell reads anything into: the settings by their file."""
    folders = [word for folder in job.configuration_folders for word in ("--config-dir", str(folder.resolve()))]
    arguments = [*folders, "--settings", str(settings)]
    for word in arguments:
        if not PLAIN.fullmatch(word):
            raise UserError(f"the path {printable(word)!r} has characters that a shell on another host would read")
    return arguments


def _require_ssh(hosts: Sequence[str], port: int | None) -> None:
    """Refuse hosts that ssh doesn't get to without a question. Raises UserError."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}", *(["-p", str(port)] if port else [])]
    if shutil.which("ssh") is None:
        raise UserError("cluster.launcher=pdsh needs ssh: install an ssh client")

    def reach(host: str) -> str | None:
        try:
            done = subprocess.run(
                [*ssh, host, "true"], capture_output=True, text=True, timeout=3 * SSH_SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return "no answer"
        return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"ssh ended with {done.returncode}"

    with ThreadPoolExecutor(16) as pool:
        for host, problem in zip(hosts, pool.map(reach, hosts)):
            if problem:
                raise UserError(f"ssh doesn't get to {host} without a question: {printable(problem)}")
