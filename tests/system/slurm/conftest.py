"""One cluster for the runs that are submitted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster, cluster, why_no_cluster


@pytest.fixture(scope="package")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes, which the commands of this process find."""
    if reason := why_no_cluster():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(running.configuration))
        yield running
