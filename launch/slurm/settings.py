"""The settings of `cluster=slurm`. They reach a batch script, so each is checked: none can become code there.

`setup` is code, on purpose: lines that the user gives for the script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError, printable
from data_pipeline.preparation.slurm.settings import SbatchNames, check_modules, check_words, chosen_options
from launch.checks import check_at_least
from train.distributed import ClusterConfig

GPUS = re.compile(r"(?:[\w.-]+:)*(\d+)")
RUNTIMES = ("apptainer", "pyxis")
NAMES = SbatchNames(
    group="cluster",
    keys={
        **{"partition": "partition", "account": "account", "qos": "qos", "time": "time", "mem": "memory"},
        **{"nodes": "nodes", "gpus-per-node": "gpus", "cpus-per-task": "cpus", "signal": "warn_seconds"},
        **{"requeue": "requeue", "no-requeue": "requeue", "dependency": "chain", "array": "at_once"},
    },
    reserved=(
        *("job-name", "output", "error", "input", "open-mode", "ntasks", "ntasks-per-node", "chdir", "export"),
        *("export-file", "get-user-env", "uid", "gid", "hold", "kill-on", "parsable", "quiet", "test-only", "wait"),
        *("wrap", "container"),
    ),
)


@dataclass
class SlurmCluster(ClusterConfig):
    """A job on a SLURM cluster; None leaves a choice to the cluster.

    Args:
        nodes: of the job.
        processes: on each node; None for one per GPU, or one.
        gpus, cpus, memory: of each node.
        time: limit of the job, as sbatch takes it: 1-00:00:00.
        partition, account, qos: where and for whom it runs.
        sbatch: more options, as sbatch takes them.
        modules: environment modules that are loaded. All else of the environment is that of the command.
        setup: more lines of the script.
        container: image in which the processes run, with this Python's path in it.
        container_runtime: `apptainer` or `pyxis`.
        warn_seconds: before the limit, when ranks are told to save; less than a step and a checkpoint take is too late.
        requeue: go on in the same job, after a stop with a checkpoint or trouble.
        restarts: after trouble, in a row without a new checkpoint.
        chain: jobs, each of which waits for the one before.
        at_once: runs of a sweep.
    """

    kind: str = "slurm"
    bind_cores: bool = True
    nodes: int = 1
    processes: int | None = None
    gpus: str | None = None
    cpus: int | None = None
    memory: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    container_runtime: str = "apptainer"
    warn_seconds: int = 120
    requeue: bool = True
    restarts: int = 3
    chain: int = 1
    at_once: int | None = None

    def processes_per_node(self) -> int:
        if self.processes is not None:
            return self.processes
        return int(GPUS.fullmatch(self.gpus)[1]) if self.gpus else 1  # type: ignore[index]

    def check(self) -> None:
        """Refuse what can't be put into a batch script, or can't work. Raises UserError."""
        check_at_least(
            self,
            {"nodes": 1, "processes": 1, "cpus": 1, "warn_seconds": 0, "restarts": 0, "chain": 1, "at_once": 1},
        )
        check_words("cluster", self, ("memory", "time", "partition", "account", "qos", "container"))
        if self.gpus is not None and not GPUS.fullmatch(self.gpus):
            raise UserError(f"cluster.gpus={printable(self.gpus)!r}: write a number, or a type and one, as h100:8")
        gpus = int(GPUS.fullmatch(self.gpus)[1]) if self.gpus else None  # type: ignore[index]
        if gpus is not None and self.processes_per_node() > gpus:
            raise UserError(
                f"cluster.processes={self.processes} are more than a node's GPUs (cluster.gpus={self.gpus})"
            )
        if self.cpus is not None and self.processes_per_node() > self.cpus:
            raise UserError(f"cluster.cpus={self.cpus} are fewer than a node's {self.processes_per_node()} processes")
        if self.container_runtime not in RUNTIMES:
            raise UserError(f"cluster.container_runtime={self.container_runtime}: there are {' and '.join(RUNTIMES)}")
        check_modules("cluster", self.modules, "cuda/12.8")
        for line in self.setup:
            if not line.isprintable():
                raise UserError(f"cluster.setup: {printable(line)!r} isn't one line of printable characters")
        if self.chain > 1 and self.at_once is not None:
            raise UserError("cluster.chain and cluster.at_once don't go together: a sweep's runs are requeued instead")
        self.options()

    def options(self) -> dict[str, str | None]:
        """Return the options of sbatch; None where one takes no value. Raises UserError."""
        words = {
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "gpus-per-node": self.gpus,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            # to the steps, not the script: the limit's warning reaches every rank
            "signal": f"USR1@{self.warn_seconds}" if self.warn_seconds else None,
        }
        ours: dict[str, str | None] = {name: str(value) for name, value in words.items() if value is not None}
        ours["requeue" if self.requeue and self.chain == 1 else "no-requeue"] = None
        return ours | chosen_options(self.sbatch, NAMES)
