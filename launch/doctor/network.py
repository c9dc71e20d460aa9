"""Two processes' all-reduce, from one kilobyte to 64 MB: whether it works, how long it takes, and at what bandwidth.

It is also the program of each of the two: python -m launch.doctor.network FILE RANK
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from launch.doctor.finding import GREEN, RED, Finding

SIZES = tuple(1 << power for power in (10, 14, 18, 22, 26))
"""In bytes: 1 KB to 64 MB."""
SECONDS = 120.0
REPEATS = 5


def look_at_network() -> Iterator[Finding]:
    """Have two processes on this machine reduce together."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "launch.doctor.network", str(Path(folder) / "store")]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for rank in (0, 1)
        ]
        try:
            outputs = [rank.communicate(timeout=SECONDS) for rank in ranks]
        except subprocess.TimeoutExpired:
            mend = "see that the host's own name resolves (/etc/hosts), or set GLOO_SOCKET_IFNAME"
            yield Finding(RED, "all-reduce", f"two processes have not met within {SECONDS:.0f} s", mend)
            return
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    if any(rank.returncode for rank in ranks):
        said = next(error.strip().splitlines() for rank, (_, error) in zip(ranks, outputs) if rank.returncode)
        yield Finding(
            RED, "all-reduce", said[-1] if said else "a process ended", "set GLOO_SOCKET_IFNAME=lo and try again"
        )
        return
    told = json.loads(outputs[0][0])
    for size, seconds in zip(SIZES, told["seconds"]):
        name = f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"
        text = f"{name} in {seconds * 1e3:.2f} ms, {size / seconds / 1e9:.2f} GB/s ({told['backend']})"
        yield Finding(GREEN, "all-reduce", text)


def reduce_together(store: str, rank: int) -> dict[str, object]:
    """Return the seconds of the fastest of some all-reduces of each size, and what did them."""
    import torch
    import torch.distributed as distributed

    use_gpus = torch.cuda.is_available() and torch.cuda.device_count() > 1
    backend, device = ("nccl", torch.device("cuda", rank)) if use_gpus else ("gloo", torch.device("cpu"))
    torch.set_num_threads(1)
    distributed.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)
    best = []
    for size in SIZES:
        times = []
        for _ in range(REPEATS):
            values = torch.full((size // 4,), float(rank + 1), device=device)
            distributed.barrier()
            started = time.perf_counter()
            distributed.all_reduce(values)
            if use_gpus:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            if values[0].item() != 3.0 or values[-1].item() != 3.0:
                raise RuntimeError(f"1 + 2 came to {values[0].item()}")
        best.append(min(times))
    distributed.destroy_process_group()
    return {"backend": backend, "seconds": best}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(reduce_together(sys.argv[1], int(sys.argv[2]))))
