"""Where a run ran: versions, machine, devices and the revision of the code, without any secret."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from train.telemetry.withheld import looks_secret, text_without_secrets

PACKAGES = (
    "headrace", "torch", "deepspeed", "webdataset", "wandb", "hydra-core", "omegaconf", "numpy", "tokenizers",
    "fastokens", "safetensors", "pyarrow", "triton", "flash-attn", "transformers",
)  # fmt: skip
VARIABLES = re.compile(
    r"(CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING|CUBLAS_WORKSPACE_CONFIG|OMP_NUM_THREADS|MKL_NUM_THREADS|PYTHONHASHSEED"
    r"|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|WANDB_MODE|HYDRA_FULL_ERROR"
    r"|(NCCL|GLOO|TORCH|TORCHELASTIC|PYTORCH|TORCHINDUCTOR|DS|DEEPSPEED)_\w+"
    r"|SLURM_(JOB_ID|JOB_NAME|JOB_PARTITION|JOB_NODELIST|NNODES|NTASKS|NTASKS_PER_NODE|CPUS_PER_TASK|GPUS_ON_NODE"
    r"|RESTART_COUNT))"
)
DIFF_CHARACTERS = 200_000


def describe_environment() -> dict[str, Any]:
    """Return what `environment.json` says: enough to know why two machines disagree, nothing that must stay private."""
    return {
        "python": platform.python_version(),
        "packages": _package_versions(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "devices": _devices(),
        "code": describe_code(Path(__file__)),
        "variables": describe_variables(dict(os.environ)),
    }


def describe_variables(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment variables that shape a run, from a list of known names."""
    return {
        name: text_without_secrets(value)
        for name, value in sorted(variables.items())
        if VARIABLES.fullmatch(name) and not looks_secret(name)
    }


def describe_code(file: Path) -> dict[str, Any] | None:
    """Return revision, branch and uncommitted changes of the repository that tracks `file`; None if none does."""
    folder = file.resolve().parent
    # Being inside a checkout isn't enough: an environment's site-packages often lies in somebody else's.
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None
    revision = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain") or ""
    diff = text_without_secrets(_git(folder, "diff", "HEAD") or "")
    cut = len(diff) - DIFF_CHARACTERS
    return {
        "revision": revision.strip() if revision else None,
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip() or None,
        "dirty": bool(status.strip()),
        "untracked": [line[3:] for line in status.splitlines() if line.startswith("??")][:100],
        "diff": diff if cut <= 0 else f"{diff[:DIFF_CHARACTERS]}\n… {cut:,} more characters",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1) if model else platform.processor()


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _devices() -> list[dict[str, Any]]:
    """Return the accelerators, if whoever asks has paid for importing torch already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_bytes": device.total_memory} for device in properties]
