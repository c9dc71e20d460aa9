"""Two hosts with addresses and a cable of their own train one run, under torchrun and under DeepSpeed's launcher."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import kill_all, read_rows, run_command, start_command, wait_until
from hosts import Hosts, SshServers, hosts, why_no_hosts
from small_runs import assert_same_result, events, rows_done, train_command
from soak import long

REASON = why_no_hosts()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
WATCHED = ("cluster.hang_seconds=8", "checkpoint.every=2")


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[Hosts]:
    with hosts(2) as running:
        yield running


def start_on(running: Hosts, host: str, folder: Path, dataset: Path, *more: str) -> subprocess.Popen[str]:
    """Type the command on a host."""
    first = next(iter(running.addresses))
    where = ("cluster=torchrun", "cluster.nodes=2", "cluster.processes=1", f"cluster.host={first}")
    return start_command(running.command(host, train_command(dataset, *where, *more)), folder)


def test_two_hosts_under_torchrun_train_the_run_of_one(two_hosts, undisturbed, small_dataset, tmp_path):
    ranks = [start_on(two_hosts, host, tmp_path, small_dataset) for host in two_hosts.addresses]
    try:
        for rank in ranks:
            _, error = rank.communicate(timeout=120)
            assert rank.returncode == 0, error
    finally:
        for rank in ranks:
            kill_all(rank)
    assert_same_result(tmp_path / "runs" / "run", undisturbed(2))


@long
def test_a_cut_cable_ends_the_run_which_is_started_again_to_the_same_result(
    two_hosts, undisturbed, small_dataset, tmp_path
):
    run = tmp_path / "runs" / "run"
    first, second = two_hosts.addresses
    ranks = [start_on(two_hosts, host, tmp_path, small_dataset, *WATCHED) for host in (first, second)]
    try:
        wait_until(lambda: rows_done(run) >= 5, ranks[0])
        two_hosts.cut(second)
        ended = ("hung", "rank_lost", "failed")
        wait_until(lambda: any(kind in ended for kind in events(run)), ranks[0])
        two_hosts.mend(second)
        for rank in ranks:
            _, error = rank.communicate(timeout=240)
            assert rank.returncode == 0, error
    finally:
        two_hosts.mend(second)
        for rank in ranks:
            kill_all(rank)
    assert "resumed" in events(run)
    assert_same_result(run, undisturbed(2))


@pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("pdsh", "sshd", "ssh-keygen")),
    reason="pdsh and openssh-server aren't installed",
)
def test_deepspeeds_launcher_reaches_both_hosts_by_a_hostfile_over_ssh(two_hosts, undisturbed, small_dataset, tmp_path):
    (tmp_path / "hostfile").write_text("".join(f"{address} slots=1\n" for address in two_hosts.addresses.values()))
    with SshServers(two_hosts, tmp_path / "ssh") as servers:
        command = train_command(
            small_dataset,
            "cluster=deepspeed",
            "cluster.hostfile=hostfile",
            "cluster.forward=[OMP_NUM_THREADS]",
        )
        finished = run_command(command, tmp_path, PATH=f"{servers.bin}{os.pathsep}{os.environ['PATH']}")
    assert finished.code == 0, finished.err
    run = tmp_path / "runs" / "run"
    assert read_rows(run / "events.jsonl")[0]["ranks"] == 2
    assert_same_result(run, undisturbed(2))
