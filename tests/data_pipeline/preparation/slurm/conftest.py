"""One cluster for all tests of this package."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from commands import REPOSITORY
from slurm_cluster import Cluster, cluster, wait_until, why_no_cluster


@pytest.fixture(scope="package")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes, which the commands of this process find, and whose tasks import what tests do."""
    if reason := why_no_cluster():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(running.configuration))
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}")
        yield running


@pytest.fixture(autouse=True)
def no_task_is_left_at_work(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "slurm" in request.fixturenames:
        wait_until(lambda: not request.getfixturevalue("slurm").active(), "all tasks to end")
