"""A rank that does nothing but meet the others in a collective every 50 ms, watched over as a training rank is.

Usage: RANK=… WORLD_SIZE=… watched_ranks.py RUN HANG_SECONDS [HOW STEP], where a rank comes to HOW at that step:
`sleep`, `spin` in C code that keeps the interpreter to itself, or `fail`.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import torch

from train import watchdog as watching
from train.distributed import ClusterConfig, join_world, leave_world


def spin() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def fail() -> None:
    raise ValueError("of its own making")


def main() -> None:
    run, hang_seconds = Path(sys.argv[1]), float(sys.argv[2])
    how, trouble_at = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else ("", -1)
    watching.POLL_SECONDS, watching.SELF_HELP_SECONDS, watching.OWN_WATCH_SECONDS = 0.25, 1.0, 1.0
    world = join_world(ClusterConfig(threads=1, timeout_seconds=120))
    watchdog = watching.Watchdog(run, world, hang_seconds)
    try:
        for step in range(1, 1000):
            watchdog.at(step, "reading", step == 1)
            if step == trouble_at:
                {"sleep": lambda: time.sleep(600), "spin": spin, "fail": fail}[how]()
            watchdog.at(step, "learning", step == 1)
            world.sum(torch.ones(1))
            (run / f"step-of-rank-{world.rank}").write_text(str(step))
            time.sleep(0.05)
    except BaseException as error:
        explained = watchdog.explain(error)
        print(f"{type(explained).__name__}: {explained}", file=sys.stderr, flush=True)
        watchdog.close()
        sys.exit(1)
    watchdog.close()
    leave_world()


if __name__ == "__main__":
    main()
