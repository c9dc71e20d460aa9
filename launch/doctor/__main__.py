"""`headrace doctor`: what this machine, or each node of a cluster, can do, what is missing, and how to mend it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from launch.doctor.finding import Finding

MARKS = {"green": "✓", "yellow": "!", "red": "✗"}


@dataclass
class DoctorConfig:
    """What is looked at.

    Args:
        folder: in which runs will be: its disk is measured.
        ranks: processes on a machine that the environment is shown for; None for one per GPU, or one.
        all_reduce: have two processes reduce together.
        wait_seconds: for the job, with cluster=slurm.
        cluster: `local`, or `slurm` for every node.
    """

    folder: str = "runs"
    ranks: int | None = None
    all_reduce: bool = True
    wait_seconds: float = 600.0
    cluster: Any = field(default_factory=dict)


def run(request: Request) -> int:
    """Look, and print what was found; returns 1 if anything is red."""
    from data_pipeline.foundation.errors import UserError
    from launch.schemas import register_schemas
    from launch.slurm.settings import SlurmCluster

    register_schemas()
    composed = request.compose("doctor", DoctorConfig)
    if composed is None:
        return 0
    config = composed.value
    if isinstance(config.cluster, SlurmCluster):
        from launch.doctor.nodes import look_at_nodes

        found = look_at_nodes(config.cluster, Path(config.folder), config.wait_seconds)
    elif composed.data["cluster"].get("kind") == "local":
        # What SLURM calls the node: where several are one machine, its name is no name of theirs.
        name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        found = {name: look(Path(config.folder), config.ranks, config.all_reduce)}
    else:
        raise UserError("doctor looks at this machine (cluster=local) or at every node (cluster=slurm)")
    for host, findings in found.items():
        if request.json:
            print(json.dumps({"host": host, "findings": [asdict(finding) for finding in findings]}))
        else:
            _print(host, findings)
    return int(any(finding.level == "red" for findings in found.values() for finding in findings))


def look(folder: Path, ranks: int | None, all_reduce: bool) -> list[Finding]:
    """Return all that is found on this machine."""
    from launch.checks import check_devices
    from launch.doctor.machine import look_at_machine
    from launch.doctor.network import look_at_network
    from launch.doctor.software import look_at_software

    findings = [*look_at_software(), *look_at_machine(folder, ranks or check_devices(None))]
    return [*findings, *look_at_network()] if all_reduce else findings


def _print(host: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(host)}[/]")
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mend = f"  → {finding.mend}" if finding.mend else ""
        line = f"{finding.subject.ljust(width)}  {finding.text}{mend}"
        console.print(f"[{finding.level}]{MARKS[finding.level]}[/] {escape(line)}")
    counts = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()))


VERB = Verb(
    name="doctor",
    summary="what this machine can do, what is missing, and how to mend it; exit 1 if anything is red",
    run=run,
    groups=("cluster",),
    keys=(
        ("folder", "in which runs will be: its disk is measured"),
        ("ranks", "processes on a machine that the environment is shown for"),
        ("all_reduce=false", "leave out the two processes that reduce together"),
        ("wait_seconds", "for the job, with cluster=slurm"),
    ),
    examples=("headrace doctor", "headrace doctor --json", "headrace doctor cluster=slurm cluster.partition=gpu"),
    flags=("--json",),
)

if __name__ == "__main__":
    # The module as imported, not as __main__: the classes that Hydra knows are the imported ones.
    from launch.doctor.__main__ import VERB as IMPORTED

    sys.exit(IMPORTED.main())
