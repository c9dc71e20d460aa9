"""The text of a run's batch script, for people to read and bash to run. Whatever is put into it stays a value.

The script is the same for a job alone, a task of a sweep's array and a link of a chain.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.preparation.slurm.script import quoted

SHUTDOWN_SECONDS = 600


@dataclass(frozen=True)
class Script:
    """What a batch script is made of.

    Args:
        title: what it is, in a line.
        options: of sbatch; None for one without a value.
        run: folder of the run, absolute.
        working_folder: that the command was typed in; relative paths of the settings are relative to it.
        python: that runs everything.
        module: that each process runs.
        arguments: what follows `python -m MODULE`.
        processes: on each node; 0 for a module that is one process and no rank.
        gpus: whether nodes have some.
        modules: environment modules.
        setup: the user's lines.
        container: image, or None.
        container_runtime: `apptainer` or `pyxis`.
        restarts: after trouble.
        requeues: go back to the queue; else end with 75 for the next job of a chain, or the user.
    """

    title: str
    options: Mapping[str, str | None]
    run: Path
    working_folder: Path
    python: str
    module: str
    arguments: Sequence[str]
    processes: int
    gpus: bool
    modules: Sequence[str]
    setup: Sequence[str]
    container: str | None
    container_runtime: str
    restarts: int
    requeues: bool

    def text(self) -> str:
        """Return the script."""
        sections = [
            self._head(),
            self._what(),
            [f"module load {shlex.quote(module)} || exit" for module in self.modules],
            ["# From cluster.setup", *self.setup] if self.setup else [],
            self._where() if self.processes else [],
            self._signals(),
            self._processes() if self.processes else self._one_process(),
            self._wait(),
            self._end() if self.processes else ['exit "$code"'],
        ]
        return "\n\n".join("\n".join(section) for section in sections if section) + "\n"

    def _head(self) -> list[str]:
        return [
            # `module` is a function that only a login shell is sure to have
            "#!/bin/bash -l" if self.modules else "#!/bin/bash",
            f"# {self.title}",
            "# Written by headrace. To change and submit it by hand: edit it, then `sbatch` it.",
            *sbatch_lines(self.options),
        ]

    def _what(self) -> list[str]:
        return [
            "# What runs: the copy of the code that was made with this script, so that later edits change nothing.",
            f"run={shlex.quote(str(self.run))}",
            f"python={shlex.quote(self.python)}",
            f"restarts={self.restarts}  # after trouble, in a row without a new checkpoint",
            "settings=(",
            *(f"  {shlex.quote(word)}" for word in self.arguments),
            ")",
            'export PYTHONPATH="$run/launch/code" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1',
            "unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT  # of the shell that this was submitted from",
            f"cd {shlex.quote(str(self.working_folder))} || exit",
        ]

    def _where(self) -> list[str]:
        return [
            "# Where the processes meet: at the first node's address, and a port that jobs on one node don't share.",
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "export host=$(scontrol show node -o \"$first\" | sed 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/')",
            "export port=$((20000 + SLURM_JOB_ID % 20000)) python run",
            f"export processes={self.processes}  # on each node",
        ]

    def _signals(self) -> list[str]:
        return [
            "# SLURM tells the processes that the limit is near (SIGUSR1), or that it ends them (SIGTERM): they end",
            "# their step and save. This script hears only of the latter, and then leaves it to SLURM what is next.",
            "# Ranks also know the limit themselves, by this variable, which an older SLURM doesn't set.",
            'if [ -z "$SLURM_JOB_END_TIME" ]; then',
            '  limit=$(squeue -h -j "$SLURM_JOB_ID" -o %e)',
            '  SLURM_JOB_END_TIME=$(date -d "$limit" +%s 2>/dev/null) && export SLURM_JOB_END_TIME',
            "fi",
            "ended_by_slurm=",
            "trap ended_by_slurm=yes TERM",
            "trap '' USR1",
        ]

    def _processes(self) -> list[str]:
        container = self._container()
        return [
            "# On each node one torchrun, which ignores the warning until it can pass it on. No node is ended because",
            "# another one has: ranks watch each other, and rank 0 may have to finish what it writes.",
            "on_each_node() {",
            "  trap '' USR1",
            '  eval "$("$python" -m launch.environment "$host" "$processes")"',
            f'  exec {container}"$python" -m torch.distributed.run \\',
            '    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$processes" --max-restarts=0 \\',
            f"    --shutdown-timeout={SHUTDOWN_SECONDS} \\",
            '    --rdzv-backend=c10d --rdzv-endpoint="$host:$port" --rdzv-id="$SLURM_JOB_ID" \\',
            '    --rdzv-conf=is_host="$([ "$SLURM_NODEID" = 0 ] && echo true || echo false)" \\',
            f'    --local-addr="$address" -m {self.module} "$@"',
            "}",
            "export -f on_each_node",
            'since=$("$python" -m launch.verdict begin "$run") || exit',
            '[ "$since" = done ] && exit 0',
            f"srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 {self._srun_options()}\\",
            '  bash -c \'on_each_node "$@"\' on_each_node "${settings[@]}" &',
        ]

    def _one_process(self) -> list[str]:
        command = f'{self._container()}"$python" -m {self.module} "${{settings[@]}}" &'
        return [f"srun --ntasks=1 {self._srun_options()}\\", f"  {command}"]

    def _container(self) -> str:
        """Return what stands before a command to run it in the image, where srun doesn't do it."""
        if self.container is None or self.container_runtime != "apptainer":
            return ""
        gpus = "--nv " if self.gpus else ""
        return f'apptainer exec {gpus}--bind "$run" --pwd "$PWD" {shlex.quote(self.container)} '

    def _srun_options(self) -> str:
        options = '${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} '
        if self.container is not None and self.container_runtime == "pyxis":
            options += f'--container-image={shlex.quote(self.container)} --container-mounts="$run:$run,$PWD:$PWD" '
        return options

    def _wait(self) -> list[str]:
        return [
            "processes_of_step=$!",
            "# A signal ends `wait` early.",
            'while :; do wait "$processes_of_step"; code=$?; kill -0 "$processes_of_step" 2>/dev/null || break; done',
        ]

    def _end(self) -> list[str]:
        again = ['    scontrol requeue "$SLURM_JOB_ID" && sleep 600 ;;'] if self.requeues else ["    exit 75 ;;"]
        return [
            "# What is next: as the run itself has recorded its end.",
            'action=$("$python" -m launch.verdict end "$run" "$since" "$code" "$restarts")',
            'if [ -n "$ended_by_slurm" ] && [ "$(date +%s)" -lt "${SLURM_JOB_END_TIME:-9999999999}" ]; then',
            "  # Cancelled: it stays so. Preempted, or a node was lost: SLURM itself puts it back into the queue.",
            '  [ "$action" = done ] && exit 0',
            "  exit 75",
            "fi",
            'case "$action" in',
            "  done) exit 0 ;;",
            "  stopped) exit 75 ;;",
            "  resume | restart)",
            *again,
            "  *) exit 1 ;;",
            "esac",
        ]


def sbatch_lines(options: Mapping[str, str | None]) -> list[str]:
    """Return options of sbatch as lines of a script."""
    return [f"#SBATCH --{name}" + ("" if value is None else f"={quoted(value)}") for name, value in options.items()]


def sweep_script(options: Mapping[str, str | None], scripts: Sequence[Path]) -> str:
    """Return the script of an array each of whose tasks is a run with a script of its own."""
    return "\n".join(
        [
            "#!/bin/bash",
            "# A sweep: each task is a run, with a script of its own. Written by headrace.",
            *sbatch_lines(options),
            "",
            "scripts=(",
            *(f"  {shlex.quote(str(script))}" for script in scripts),
            ")",
            'exec bash "${scripts[$SLURM_ARRAY_TASK_ID]}"',
            "",
        ]
    )
