"""Versions that fit each other, compilers, launchers, and the login of wandb."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from launch.doctor.finding import GREEN, RED, YELLOW, Finding

PYTHONS = ((3, 11), (3, 13))
STALE_SECONDS = 3600.0
LAUNCHERS = {
    "ssh": ("cluster=deepspeed with a hostfile", "apt-get install openssh-client"),
    "pdsh": ("cluster=deepspeed with a hostfile", "apt-get install pdsh"),
    "sbatch": ("cluster=slurm", "nothing, unless this is to be a SLURM machine: then see its administrators"),
}


def look_at_software() -> Iterator[Finding]:
    yield python()
    yield from packages()
    yield devices()
    yield compiler()
    yield from build_locks()
    yield from launchers()
    yield wandb_login()


def python(version: tuple[int, int] | None = None) -> Finding:
    version = version or sys.version_info[:2]
    text = f"{platform.python_version()} at {sys.executable}"
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return Finding(GREEN, "Python", text)
    return Finding(RED, "Python", text, "use Python 3.11, 3.12 or 3.13: make install PYTHON=python3.12")


def packages() -> Iterator[Finding]:
    """Compare what is installed with what headrace asks for."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("headrace") or []]
    except metadata.PackageNotFoundError:
        yield Finding(YELLOW, "packages", "headrace isn't installed, only imported", "make install")
        return
    wrong = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"no {requirement.name}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    main = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "deepspeed") if _installed(name))
    if wrong:
        yield Finding(RED, "packages", "; ".join(wrong), "pip install -r requirements.lock")
    else:
        yield Finding(GREEN, "packages", f"{main}, and {len(requirements) - 2} more as headrace asks for")


def devices() -> Finding:
    """Find whether torch, the driver and the GPUs of this machine fit each other."""
    import torch

    built, has_driver = torch.version.cuda, Path("/proc/driver/nvidia").exists()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index).name for index in range(torch.cuda.device_count())]
        return Finding(GREEN, "devices", f"{len(names)} × {names[0]}, torch for CUDA {built}")
    if not has_driver:
        return Finding(GREEN, "devices", "no NVIDIA driver here: runs use CPUs and gloo")
    if built is None:
        return Finding(
            RED, "devices", "there is an NVIDIA driver, and this torch has no CUDA", "pip install torch==2.13.0"
        )
    mend = "see `nvidia-smi`; a driver older than that CUDA has to be updated, and CUDA_VISIBLE_DEVICES not be empty"
    return Finding(RED, "devices", f"torch for CUDA {built} finds no GPU, and there is an NVIDIA driver", mend)


def compiler() -> Finding:
    """Find what DeepSpeed compiles its optimizers for offloading with; nothing else of ours is compiled."""
    import torch

    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        return Finding(
            YELLOW, "compiler", "no C++ compiler: zero=2_offload and 3_offload need one", "apt-get install g++"
        )
    text = found
    if torch.version.cuda is not None and torch.cuda.is_available():
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            mend = f"load or install the toolkit of CUDA {torch.version.cuda}"
            return Finding(YELLOW, "compiler", f"{found}, and no nvcc: offloading needs it", mend)
        text += f", {nvcc}"
    return Finding(GREEN, "compiler", text)


def build_locks(folder: Path | None = None) -> Iterator[Finding]:
    """Find locks of killed builds, for which other programs' builds wait for ever; ours remove theirs."""
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    stale = [lock for lock in folder.rglob("lock") if time.time() - lock.stat().st_mtime > STALE_SECONDS]
    for lock in stale:
        yield Finding(YELLOW, "build locks", f"{lock} is of a build that was killed", f"rm {lock}")
    if not stale:
        yield Finding(GREEN, "build locks", "none is stale")


def launchers() -> Iterator[Finding]:
    yield Finding(GREEN, "launchers", "torchrun and deepspeed, with this Python")
    for program, (needed, mend) in LAUNCHERS.items():
        found = shutil.which(program)
        if found is None:
            yield Finding(YELLOW, "launchers", f"no {program}: it is needed for {needed}", mend)
        else:
            yield Finding(GREEN, "launchers", found)
    if shutil.which("sinfo"):
        yield _slurm()


def _slurm() -> Finding:
    try:
        done = subprocess.run(["sinfo", "-h", "-o", "%P %D %t"], capture_output=True, text=True, timeout=20)
        problem = " ".join(done.stderr.split())
    except subprocess.TimeoutExpired:
        problem = "no answer within 20 s"
    if problem:
        return Finding(YELLOW, "SLURM", problem, "set SLURM_CONF, or run this where the cluster's commands work")
    return Finding(GREEN, "SLURM", "; ".join(done.stdout.splitlines()))


def wandb_login() -> Finding:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return Finding(GREEN, "wandb", "logged in by WANDB_API_KEY")
    for path in (Path(os.environ.get("NETRC") or Path.home() / ".netrc"), Path.home() / "_netrc"):
        try:
            if any("wandb" in host for host in netrc.netrc(path).hosts):
                return Finding(GREEN, "wandb", f"logged in by {path}")
        except (OSError, netrc.NetrcParseError):
            continue
    return Finding(YELLOW, "wandb", "not logged in: runs are kept offline, for `wandb sync`", "wandb login")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
