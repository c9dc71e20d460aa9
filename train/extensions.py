"""DeepSpeed's compiled extensions: none on our paths, and a killed build of another program can't hang us.

At its first use DeepSpeed compiles C++ behind a lock file; if the compiler is killed, the file stays and every later
start waits for it for ever. So builds get a folder per environment, and what locks lie in it are removed when no living
process of ours uses it: the kernel lets go of a file lock when its holder dies.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

from data_pipeline.foundation.files import text_hash


@functools.cache
def import_deepspeed() -> ModuleType:
    """Import DeepSpeed with the extension turned off that it would compile on a CPU, and with dead builds cleared away.

    The only way in which this project imports it.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or _default_folder())
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    remove_stale_locks(folder)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def remove_stale_locks(folder: Path) -> list[Path]:
    """Remove build locks below a folder, unless another living process of ours uses the folder; return them.

    The folder stays in use by this process until it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    in_use = os.open(folder / ".in-use", os.O_CREAT | os.O_RDWR)
    removed = []
    try:
        fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for lock in folder.rglob("lock"):
            lock.unlink(missing_ok=True)
            removed.append(lock)
    except BlockingIOError:
        pass
    fcntl.flock(in_use, fcntl.LOCK_SH)
    return removed


def _default_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "headrace" / "extensions" / text_hash(sys.prefix)[:16]
