"""A rank that `srun` has started: names what SLURM calls it as torch does, then becomes the module it is told to be.

DeepSpeed's launcher of SLURM starts a file without ranks; this is that file.
"""

from __future__ import annotations

import os
import runpy
import sys

RANKS = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}


def main(module: str, *arguments: str) -> None:
    """Run a module as rank SLURM_PROCID of SLURM_NTASKS."""
    for ours, slurms in RANKS.items():
        os.environ[ours] = os.environ[slurms]
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["SLURM_TASKS_PER_NODE"].partition("(")[0]
    # Started as a file, Python looks for modules beside it first; ours are in the folder above.
    sys.path[0] = os.path.dirname(sys.path[0])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
